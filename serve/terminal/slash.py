"""What a person types, as an action: a question, or a command that begins with a slash. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from serve.strict import did_you_mean
from serve.terminal.options import OFF

SETTABLE = ("temperature", "top_p", "max_tokens")
_COMMAND = re.compile(r"/[A-Za-z?]*")
"""A first word that can't be meant as a question; `/etc/hosts` and `//` can."""


class BadCommand(ValueError):
    """The message says what would be right."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the server has: presets with what they are for, that of requests that name none, and
    names of efforts."""

    presets: dict[str, str]
    default: str
    efforts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """`value` as it was typed."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Show:
    what: Literal["help", "presets", "options"]


@dataclass(frozen=True, slots=True)
class ShowThinking:
    shown: bool


@dataclass(frozen=True, slots=True)
class Do:
    what: Literal["new", "retry", "undo", "quit"]


@dataclass(frozen=True, slots=True)
class Save:
    path: str


@dataclass(frozen=True, slots=True)
class Load:
    """`number`: which conversation of the file, from 1; None where it holds one."""

    path: str
    number: int | None


Action = Say | Change | Show | ShowThinking | Do | Save | Load


class Command(NamedTuple):
    """`most`: so many words may follow its name."""

    usage: str
    help: str
    most: int
    read: Callable[[list[str], Known], Action]


def parse(text: str, known: Known) -> Action:
    """Raises `BadCommand`."""
    first, *_ = text.split(maxsplit=1) or [""]
    if text[:1] != "/" or not _COMMAND.fullmatch(first):
        return Say(text)
    command = COMMANDS.get(first)
    if command is None:
        near = did_you_mean(first, COMMANDS) or "; /help lists the commands"
        raise BadCommand(f"there is no command {first}{near}")
    words = _words(text)[1:]
    if len(words) > command.most:
        raise BadCommand(f"{words[command.most]} is too much: {command.usage}")
    return command.read(words, known)


def completions(text: str, known: Known) -> list[str]:
    """What the last word of `text`, a line up to the cursor, may become; files apart."""
    *before, last = text.split(" ")
    match before:
        case []:
            found: Iterable[str] = COMMANDS if text.startswith("/") else ()
        case ["/preset"]:
            found = known.presets
        case ["/effort"]:
            found = (*known.efforts, OFF)
        case ["/budget" | "/votes"]:
            found = (OFF,)
        case ["/set"]:
            found = SETTABLE
        case ["/set", _]:
            found = (OFF,)
        case ["/thinking"]:
            found = ("show", "hide")
        case _:
            found = ()
    return [it for it in found if it.startswith(last)]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an unclosed quote
        return text.split()


# ---- one reader per command --------------------------------------------------------------------


def _preset(words: list[str], known: Known) -> Action:
    if not words:
        return Show("presets")
    (name,) = words
    if name != OFF and name not in known.presets:
        near = did_you_mean(name, known.presets)
        raise BadCommand(f"unknown preset `{name}`{near or '; /preset lists them'}")
    return Change("preset", name)


def _votes(words: list[str], known: Known) -> Action:
    return Change("votes", words[0]) if words else Show("options")


def _budget(words: list[str], known: Known) -> Action:
    return Change("thinking_token_budget", words[0]) if words else Show("options")


def _effort(words: list[str], known: Known) -> Action:
    if not words:
        return Show("options")
    (name,) = words
    if name not in (*known.efforts, OFF):
        raise BadCommand(f"there is no effort {name}; say {', '.join(known.efforts)} or {OFF}")
    return Change("reasoning_effort", name)


def _set(words: list[str], known: Known) -> Action:
    if not words:
        return Show("options")
    name = words[0]
    if name not in SETTABLE:
        near = did_you_mean(name, SETTABLE) or f"; say {', '.join(SETTABLE)}"
        raise BadCommand(f"there is no {name} to set{near}")
    if len(words) == 1:
        raise BadCommand(f"to what? /set {name} VALUE, or {OFF}")
    return Change(name, words[1])


def _thinking(words: list[str], known: Known) -> Action:
    if words not in (["show"], ["hide"]):
        raise BadCommand("say /thinking show or /thinking hide")
    return ShowThinking(words == ["show"])


def _save(words: list[str], known: Known) -> Action:
    if not words:
        raise BadCommand("where to? /save FILE")
    return Save(words[0])


def _load(words: list[str], known: Known) -> Action:
    if not words:
        raise BadCommand("what? /load FILE")
    if len(words) == 2 and not words[1].isdecimal():
        raise BadCommand(f"{words[1]} is no number of a conversation in {words[0]}")
    return Load(words[0], int(words[1]) if len(words) == 2 else None)


def _always(action: Action) -> Callable[[list[str], Known], Action]:
    return lambda words, known: action


COMMANDS = {
    "/preset": Command("/preset [NAME]", "List the presets, or take one.", 1, _preset),
    "/votes": Command("/votes N", "Ask N times; the most frequent answer wins.", 1, _votes),
    "/budget": Command("/budget N", "Think for N tokens at most; 0: not at all.", 1, _budget),
    "/effort": Command("/effort NAME", "A thinking budget by name.", 1, _effort),
    "/set": Command(
        "/set NAME VALUE", "Set temperature, top_p or max_tokens; alone: what is set.", 2, _set
    ),
    "/thinking": Command("/thinking show|hide", "Whether thinking is shown.", 1, _thinking),
    "/new": Command("/new", "Begin a new conversation.", 0, _always(Do("new"))),
    "/retry": Command("/retry", "Ask the last question again.", 0, _always(Do("retry"))),
    "/undo": Command(
        "/undo", "Take back the last question and its answer.", 0, _always(Do("undo"))
    ),
    "/save": Command("/save FILE", "Keep the conversation; the playground imports it.", 1, _save),
    "/load": Command("/load FILE [N]", "Go on with a saved one, also the playground's.", 2, _load),
    "/help": Command("/help", "This.", 0, _always(Show("help"))),
    "/quit": Command("/quit", "Leave; Ctrl-D does too.", 0, _always(Do("quit"))),
}
