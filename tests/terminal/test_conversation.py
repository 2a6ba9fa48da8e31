"""Turns, the requests that they make, and files of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.terminal.conversation import (
    BadFile,
    Conversation,
    Exchange,
    from_file,
    request_body,
    to_file,
    valid,
)
from serve.terminal.options import Options

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


def test_a_request_has_what_was_said_before_without_the_thinking() -> None:
    """A question that has no answer is left out, but for the last."""
    exchanges = [Exchange("a", "hm", "A"), Exchange("b"), Exchange("c", "hm", "C"), Exchange("d")]
    body = msgspec.json.decode(request_body(Conversation("", 0, exchanges), Options(preset="p")))
    assert [(it["role"], it["content"]) for it in body["messages"]] == [
        ("user", "a"),
        ("assistant", "A"),
        ("user", "c"),
        ("assistant", "C"),
        ("user", "d"),
    ]
    assert body["preset"] == "p"
    assert body["stream_options"] == {"include_usage": True}


def test_the_last_question_is_asked_again_without_its_answer() -> None:
    exchanges = [Exchange("a", "", "A"), Exchange("b", "", "B")]
    messages = Conversation("", 0, exchanges).messages()
    assert [it["content"] for it in messages] == ["a", "A", "b"]


@given(st.lists(st.builds(Exchange, TEXTS, TEXTS, TEXTS.filter(bool)), max_size=4))
def test_a_file_brings_back_what_was_saved(exchanges: list[Exchange]) -> None:
    conversation = Conversation("id", 1, exchanges)
    (found,) = from_file(to_file(conversation, 2), 3)
    assert (found.id, found.created_ms, found.exchanges) == ("id", 1, exchanges)
    assert found.name() == conversation.name()


def test_a_question_without_an_answer_is_kept_too() -> None:
    (found,) = from_file(to_file(Conversation("", 1, [Exchange("a"), Exchange("b")]), 2), 3)
    assert found.exchanges == [Exchange("a"), Exchange("b")]


def test_a_file_of_the_playground_is_read() -> None:
    """The answer that was shown is taken, its variants are left; times may be dates."""
    reply = {"thinking": "hm", "answer": "B", "model": "m"}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a" * 100},
        {
            "role": "assistant",
            "content": "B",
            "reasoning_content": "hm",
            "variants": [reply, reply],
            "shown": 1,
        },
    ]
    several = [
        {"id": "1", "title": "", "created": "2026-11-30", "updated": 5, "messages": messages},
        {"messages": []},
    ]
    data = json.dumps({"r1_serve": 1, "conversations": several}).encode()
    first, second = from_file(data, 7)
    assert first.exchanges == [Exchange("a" * 100, "hm", "B")]
    assert (first.name(), first.created_ms) == ("a" * 59 + "…", 7)
    assert (second.exchanges, second.name()) == ([], "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no file of conversations"),
        (b"\xff", "no file of conversations"),
        (b"[]", "no file of conversations"),
        (b'{"r1_serve": 2, "conversations": []}', "no file of conversations"),
        (b'{"r1_serve": 1, "conversations": [{"messages": [{"role": "x"}]}]}', "conversations"),
        (
            b'{"r1_serve": 1, "conversations":'
            b' [{"messages": [{"role": "assistant", "content": "a"}]}]}',
            "an answer without a question",
        ),
    ],
)
def test_other_files_are_told(data: bytes, words: str) -> None:
    with pytest.raises(BadFile, match=words):
        from_file(data, 0)


def test_bytes_that_are_no_text_do_not_reach_a_request() -> None:
    """A terminal lets them through as lone surrogates, which JSON can't hold."""
    assert valid("a\udcffb 你好") == "a?b 你好"
    assert valid("你好 🙂") == "你好 🙂"
