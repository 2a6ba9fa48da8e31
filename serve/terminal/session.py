"""The chat between a person and a server: what is typed is done, one thing after the other."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from serve.terminal.asking import Asker
from serve.terminal.conversation import (
    BadFile,
    Conversation,
    Exchange,
    from_file,
    request_body,
    to_file,
    valid,
)
from serve.terminal.options import NAMES, BadOption, Options
from serve.terminal.screen import RED, Screen
from serve.terminal.slash import (
    COMMANDS,
    Action,
    BadCommand,
    Change,
    Do,
    Known,
    Load,
    Save,
    Say,
    Show,
    ShowThinking,
    parse,
)
from serve.terminal.words import sentence, shortened

KEYS = (
    ("Enter", "Sends; after a \\ it begins a new line."),
    ("Alt-Enter", "Begins a new line; so does Esc, then Enter."),
    ("Ctrl-C", "Stops a reply; clears what is typed."),
    ("Ctrl-D", "Leaves."),
    ("Up, Down", "Earlier questions; Ctrl-R searches them."),
    ("Tab", "Completes commands, presets and files."),
)
ECHO_LENGTH = 60
"""Of what was said before, where it is named again."""

Next = Callable[[], Awaitable[str]]
"""What is typed next. Raises `EOFError` where there is no more."""


class Session:
    def __init__(
        self,
        asker: Asker,
        screen: Screen,
        known: Known,
        options: Options,
        *,
        shows_thinking: bool,
    ) -> None:
        self.options = options
        self._asker = asker
        self._screen = screen
        self._known = known
        self._shows_thinking = shows_thinking
        self._conversation = _new()
        self._file: Path | None = None

    async def run(self, typed: Next, first: str | None) -> None:
        """Until `/quit` or the end of what is typed; `first` is asked before it."""
        with self._asker.interruptible():
            if first is not None:
                self._screen.say(f"> {first}", style="")
                await self._do(Say(valid(first)))
            while (action := await self._next(typed)) != Do("quit"):
                await self._do(action)

    async def _next(self, typed: Next) -> Action:
        while True:
            try:
                return parse(valid(await typed()), self._known)
            except EOFError:
                return Do("quit")
            except BadCommand as exc:
                self._complain(exc)

    async def _do(self, action: Action) -> None:
        match action:
            case Say(text):
                self._conversation.exchanges.append(Exchange(text))
                await self._answer()
            case Change(field, value):
                self._change(field, value)
            case Show("help"):
                self._screen.rows((it.usage, it.help) for it in COMMANDS.values())
                self._screen.rows(KEYS)
            case Show("presets"):
                self._screen.rows(self._known.presets.items())
                self._screen.say(f"Now: {self.options.preset or self._known.default}")
            case Show("options"):
                self._screen.rows(self.options.by_name().items())
                self._screen.say("All else is as the preset says.")
            case ShowThinking(shown):
                self._shows_thinking = shown
                self._screen.say(f"Thinking is {'shown' if shown else 'hidden'}.")
            case Load(path, number):
                self._load(_path(path), number)
            case Do("new"):
                self._conversation, self._file = _new(), None
                self._screen.say("A new conversation.")
            case Do() | Save() if not self._conversation.exchanges:
                self._complain("there is no question yet")
            case Save(path):
                self._save(_path(path))
            case Do("retry"):
                self._name("Asking again", self._conversation.exchanges[-1])
                await self._answer()
            case Do("undo"):
                self._name("Taken back", self._conversation.exchanges.pop())

    async def _answer(self) -> None:
        """To the last question; an earlier one stays where none comes."""
        exchange = self._conversation.exchanges[-1]
        body = request_body(self._conversation, self.options)
        reply = await self._asker.ask(body, shows_thinking=self._shows_thinking)
        if reply.answer:
            exchange.thinking, exchange.answer = reply.thinking, reply.answer

    def _change(self, field: str, value: str) -> None:
        try:
            self.options = self.options.changed(field, value)
        except BadOption as exc:
            self._complain(exc)
        else:
            now = self.options.fields().get(field, "as the preset says")
            self._screen.say(f"{NAMES.get(field, field)}: {now}")

    def _name(self, what: str, exchange: Exchange) -> None:
        self._screen.say(f"{what}: {shortened(exchange.question, ECHO_LENGTH)}")

    def _complain(self, why: object) -> None:
        self._screen.say(sentence(str(why)), RED)

    # ---- files ----

    def _save(self, path: Path) -> None:
        """Another conversation's file is not written over."""
        try:
            with path.open("wb" if path == self._file else "xb") as file:
                file.write(to_file(self._conversation, _now_ms()))
        except FileExistsError:
            self._complain(f"there is a {path} already; take another name")
        except OSError as exc:
            self._complain(f"can't write {path}: {exc.strerror}")
        else:
            self._file = path
            self._screen.say(f"Saved in {path}.")

    def _load(self, path: Path, number: int | None) -> None:
        try:
            found = from_file(path.read_bytes(), _now_ms())
        except BadFile as exc:
            self._complain(f"can't load {path}: {exc}")
        except OSError as exc:
            self._complain(f"can't read {path}: {exc.strerror}")
        else:
            self._choose(path, found, number)

    def _choose(self, path: Path, found: list[Conversation], number: int | None) -> None:
        if number is None and len(found) > 1:
            self._screen.rows((str(at), it.name()) for at, it in enumerate(found, 1))
            self._screen.say(f"Which? /load {path} N")
        elif not 1 <= (number or 1) <= len(found):
            self._complain(f"there are {len(found)} conversations in {path}")
        else:
            self._conversation = found[(number or 1) - 1]
            self._file = path if len(found) == 1 else None
            self._screen.say(f"Loaded: {self._conversation.name()}")
            if self._conversation.exchanges:
                last = self._conversation.exchanges[-1]
                self._screen.say(f"> {last.question}")
                self._screen.say(last.answer, style="")


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))


def _new() -> Conversation:
    return Conversation(str(uuid.uuid4()), _now_ms(), [])


def _now_ms() -> float:
    return round(time.time() * 1000)
