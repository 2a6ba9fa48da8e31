"""The line that a person types, with prompt-toolkit: keys, completion, history."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from serve.terminal.slash import Known, completions

WITH_FILES = ("/save ", "/load ")


def history_file(env: Mapping[str, str]) -> Path:
    """Where questions are kept from session to session (XDG Base Directory Specification)."""
    state = env.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "r1-serve" / "chat_history"


def kept_history(path: Path) -> History:
    """In `path`, which only its owner may read. Raises `OSError` where it can't be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return _FileHistory(path)


class _FileHistory(FileHistory):
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):  # a full disk ends no chat
            super().store_string(string)


class _Completer(Completer):
    def __init__(self, known: Known) -> None:
        self._known = known
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        for command in WITH_FILES:
            if text.startswith(command):
                yield from self._paths.get_completions(Document(text[len(command) :]), event)
        last = text.rpartition(" ")[2]
        for word in completions(text, self._known):
            about = self._known.presets.get(word) if text.startswith("/preset ") else None
            yield Completion(word, -len(last), display_meta=about)


class Prompt:
    """`toolbar` is asked for its line whenever it is drawn."""

    def __init__(self, known: Known, history: History | None, toolbar: Callable[[], str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=history or InMemoryHistory(),
            completer=_Completer(known),
            complete_while_typing=False,
            reserve_space_for_menu=4,
            enable_suspend=True,
            key_bindings=_keys(),
            bottom_toolbar=toolbar,
        )

    async def ask(self) -> str:
        """What was typed, up to Enter. Raises `EOFError` on Ctrl-D."""
        return await self._session.prompt_async(handle_sigint=False)


def _keys() -> KeyBindings:
    keys = KeyBindings()
    in_line = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=in_line)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif buffer.text.strip():
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=in_line)
    def go_on(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=in_line)
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys
