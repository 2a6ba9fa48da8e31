"""The start of a chat on a terminal: what the server has, then the person's turn."""

from __future__ import annotations

import os
import sys

import msgspec

from serve.terminal.asking import Asker
from serve.terminal.client import Client
from serve.terminal.options import Options
from serve.terminal.prompt import Prompt, history_file, kept_history
from serve.terminal.screen import Screen, waiting_keys
from serve.terminal.session import Session
from serve.terminal.words import toolbar


async def converse(
    client: Client,
    options: Options,
    first: str | None,
    *,
    shows_thinking: bool,
    keeps_history: bool,
) -> None:
    """Raises `ChatError` where the server isn't there, or hasn't what is asked for."""
    screen = Screen(sys.stdout, os.environ)
    known = await client.known()
    model, options = await _chosen(client, options, known.presets)
    session = Session(Asker(client, screen), screen, known, options, shows_thinking=shows_thinking)

    def bar() -> str:
        now = session.options
        return toolbar(model, now.preset or known.default, now.by_name(), screen.width)

    history = None
    if keeps_history:
        path = history_file(os.environ)
        try:
            history = kept_history(path)
        except OSError as exc:
            screen.say(f"Questions are not kept for later: {path}: {exc.strerror}.")
    screen.say(f"{model or 'No engine is ready yet'} at {client.url}. /help tells what there is.")
    with waiting_keys(sys.stdin.fileno()):
        await session.run(Prompt(known, history, bar).ask, first)


async def _chosen(client: Client, options: Options, presets: dict[str, str]) -> tuple[str, Options]:
    """The model's name, and the options with model and preset apart. Raises `ChatError` with what
    the server says where it hasn't them."""
    model, preset = options.model, options.preset
    if model is not None and preset is None:
        name, _, suffix = model.rpartition(":")
        model, preset = (name, suffix) if suffix in presets else (model, None)
    options = msgspec.structs.replace(options, model=model, preset=preset)
    served = await client.models()
    if not served:
        return model or "", options
    name = model or served[0]
    if options.fields():
        await client.check_model(f"{name}:{preset}" if preset else name)
    return name, options
