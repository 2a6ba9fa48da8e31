"""`r1-serve chat`: a chat in the terminal; in a pipe, one question and its answer."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated

import typer

from serve.commands import clear_errors, run_loop
from serve.settings import SettingsError

if TYPE_CHECKING:
    from serve.terminal.client import Client
    from serve.terminal.options import Options

NO_EXTRA = (
    "a chat on a terminal needs prompt-toolkit: `pip install 'r1-serve[chat]'` "
    "(in a pipe it isn't needed)"
)


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Asked first; what is piped in comes after it.")
    ] = None,
    url: Annotated[
        str, typer.Option("--url", help="The endpoint: a running `r1-serve up` or `router`.")
    ] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None, typer.Option("--model", help="A served name, or `name:preset`.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="The kind of work; docs/presets.md.")
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--thinking/--no-thinking",
            help="Show thinking: on a terminal it is shown, in a pipe this sends it to stderr.",
        ),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Keep questions for later sessions.")
    ] = True,
) -> None:
    """Chat in the terminal with a running server; in a pipe, one question and its answer alone.

    The endpoint's key, if it wants one, is read from R1_API_KEY.
    """
    from serve.discovery import engine_url
    from serve.terminal.client import KEY_VARIABLE, Client
    from serve.terminal.options import Options

    options = Options(model=model, preset=preset)
    with clear_errors():
        for stream in (sys.stdout, sys.stderr):  # not every locale has all characters
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        client = Client(engine_url(url), os.environ.get(KEY_VARIABLE))
        if sys.stdin.isatty() and sys.stdout.isatty():
            work = _converse(client, options, question, thinking is not False, history)
        else:
            work = _answer(client, options, question, thinking is True)
        finished = run_loop(_until_stopped(work, client))
    raise typer.Exit(0 if finished else 130)


def _converse(
    client: Client, options: Options, first: str | None, shows_thinking: bool, keeps_history: bool
) -> Coroutine[None, None, None]:
    """Raises `SettingsError` where the extra is missing."""
    try:
        from serve.terminal.interactive import converse
    except ModuleNotFoundError as exc:
        raise SettingsError(NO_EXTRA) from exc

    return converse(
        client, options, first, shows_thinking=shows_thinking, keeps_history=keeps_history
    )


def _answer(
    client: Client, options: Options, question: str | None, shows_thinking: bool
) -> Coroutine[None, None, None]:
    """Raises `SettingsError` where there is nothing to ask."""
    from serve.terminal import piped

    piped_in = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode(errors="replace")
    text = "\n\n".join(filter(None, (question, piped_in.strip())))
    if not text:
        raise SettingsError("there is no question: `r1-serve chat QUESTION`, or pipe one in")
    return piped.answer(client, text, options, shows_thinking=shows_thinking)


async def _until_stopped(work: Coroutine[None, None, None], client: Client) -> bool:
    """Whether it came to its end before SIGTERM, or before Ctrl-C where it doesn't take that
    itself."""
    from serve.supervise import StopSignals, until_stopped

    signals = StopSignals()
    try:
        with signals.installed():
            return await until_stopped(work, signals)
    finally:
        client.close()
