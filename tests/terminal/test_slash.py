"""What is typed, as actions."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    completions,
    parse,
)

KNOWN = Known({"chat": "Talk.", "math": "Sums."}, "chat", ("none", "low"))


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("What is 1/2?", Say("What is 1/2?")),
        ("/etc/hosts, what is it?", Say("/etc/hosts, what is it?")),
        ("// a comment\nint x;", Say("// a comment\nint x;")),
        (" /help", Say(" /help")),
        ("/preset", Show("presets")),
        ("/preset math", Change("preset", "math")),
        ("/preset off", Change("preset", "off")),
        ("/votes 8", Change("votes", "8")),
        ("/votes", Show("options")),
        ("/budget off", Change("thinking_token_budget", "off")),
        ("/effort low", Change("reasoning_effort", "low")),
        ("/set  top_p   0.9", Change("top_p", "0.9")),
        ("/set", Show("options")),
        ("/thinking hide", ShowThinking(False)),
        ("/thinking show", ShowThinking(True)),
        ("/save 'a file.json'", Save("a file.json")),
        ("/save it's.json", Save("it's.json")),
        ("/load ~/x.json 2", Load("~/x.json", 2)),
        ("/load x.json", Load("x.json", None)),
        ("/help ", Show("help")),
        ("/new", Do("new")),
        ("/retry", Do("retry")),
        ("/undo", Do("undo")),
        ("/quit", Do("quit")),
    ],
)
def test_what_is_typed_becomes_an_action(text: str, action: Action) -> None:
    assert parse(text, KNOWN) == action


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/", "/help lists the commands"),
        ("/presets", "did you mean `/preset`?"),
        ("/exit", "there is no command /exit"),
        ("/preset maths", "did you mean `math`?"),
        ("/preset x", "/preset lists them"),
        ("/preset math chat", "chat is too much: /preset [NAME]"),
        ("/new x", "x is too much: /new"),
        ("/effort huge", "say none, low or off"),
        ("/set temprature 1", "did you mean `temperature`?"),
        ("/set k 1", "say temperature, top_p, max_tokens"),
        ("/set top_p", "/set top_p VALUE, or off"),
        ("/thinking", "/thinking show or /thinking hide"),
        ("/save", "/save FILE"),
        ("/load", "/load FILE"),
        ("/load x.json two", "two is no number"),
    ],
)
def test_what_can_not_be_meant_is_told_with_what_can(text: str, words: str) -> None:
    with pytest.raises(BadCommand, match=re.escape(words)):
        parse(text, KNOWN)


@given(st.text())
def test_anything_that_is_typed_is_an_action_or_is_told(text: str) -> None:
    for typed in (text, f"/{text}", f"/set {text}", f"/load {text}"):
        with contextlib.suppress(BadCommand):
            parse(typed, KNOWN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/s", ["/set", "/save"]),
        ("/preset ", ["chat", "math"]),
        ("/preset m", ["math"]),
        ("/effort l", ["low"]),
        ("/set t", ["temperature", "top_p"]),
        ("/set top_p o", ["off"]),
        ("/thinking h", ["hide"]),
        ("/votes ", ["off"]),
        ("/new ", []),
        ("wh", []),
        ("", []),
    ],
)
def test_words_are_completed(text: str, words: list[str]) -> None:
    assert completions(text, KNOWN) == words


def test_each_command_is_found_and_told() -> None:
    for name, command in COMMANDS.items():
        assert command.usage.split()[0] == name
        assert name in completions("/", KNOWN)
        assert command.help.endswith(".")
