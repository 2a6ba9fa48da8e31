"""A reply as its events are folded together, and what is said about it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serve.terminal.reply import Piece, Reply, StreamFailed
from serve.terminal.words import events, progress, sentence, summary, toolbar

HEADERS = {
    "x-r1-preset": "math",
    "x-r1-thinking-token-budget": "64",
    "x-r1-budget-source": "preset",
}
USAGE = {"completion_tokens": 1200, "completion_tokens_details": {"reasoning_tokens": 50}}
TALLY = {
    "n": 8,
    "counted": 3,
    "answers": [{"answer": "120", "count": 2}, {"answer": "1", "count": 1}],
}


def chunk(finish_reason: str | None = None, r1: Any = None, **delta: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return msgspec.json.encode({"choices": [choice]} | ({"r1": r1} if r1 else {}))


def replied(*chunks: bytes, headers: dict[str, str] = HEADERS, usage: Any = USAGE) -> Reply:
    """Asked at 1 s, a chunk each second from 2 s on, and then its usage."""
    reply = Reply(1.0)
    reply.begin(headers)
    for number, it in enumerate(chunks):
        reply.add(it, 2.0 + number)
    reply.add(msgspec.json.encode({"choices": [], "usage": usage}), 2.0 + len(chunks))
    reply.add(b"[DONE]", 2.0 + len(chunks))
    reply.ended_s = 2.0 + len(chunks)
    return reply


THOUGHT, SAID = chunk(reasoning_content="hm", reasoning="hm"), chunk(content="132")
WHOLE = (THOUGHT, SAID, chunk("stop"))


def test_thinking_and_answer_come_apart() -> None:
    reply = Reply(1.0)
    assert reply.add(chunk(role="assistant", content=""), 2.0) == []
    assert reply.add(THOUGHT, 3.0) == [Piece("thinking", "hm")]
    assert reply.add(chunk(reasoning="m?"), 4.0) == [Piece("thinking", "m?")]
    assert reply.add(SAID, 5.0) == [Piece("answer", "132")]
    assert (reply.thinking, reply.answer) == ("hmm?", "132")
    assert (reply.first_s, reply.answer_s, reply.done) == (3.0, 5.0, False)


def test_the_figures_are_the_servers() -> None:
    reply = replied(*WHOLE)
    assert summary(reply) == (
        "thinking 50 tokens, answer 1,150 · first token 1.0 s · 400 tokens/s · preset math"
    )
    assert list(events(reply)) == []


def test_a_vote_is_told_while_it_goes_on_and_afterwards() -> None:
    """Tokens per second are those of all its samples."""
    reply = Reply(1.0)
    assert progress(reply, 3.2) == "waiting · 2 s"
    reply.comment(b"ping")
    reply.comment(b"r1.votes " + msgspec.json.encode(TALLY))
    assert progress(reply, 5.2) == "3 of at most 8 votes: 120 ×2, 1 ×1 · 4 s"
    reply = replied(*WHOLE, chunk("stop", r1={"votes": TALLY | {"counted": 4, "answers": []}}))
    assert summary(reply).endswith("240 tokens/s · preset math · 4 of at most 8 votes")


def test_thinking_that_is_hidden_is_told() -> None:
    reply = Reply(1.0)
    reply.add(THOUGHT, 2.0)
    assert progress(reply, 3.0) == "thinking · 2 s"


@pytest.mark.parametrize(
    ("chunks", "more", "words"),
    [
        (
            (THOUGHT, chunk("stop", {"recovered": "eos"}, content="1")),
            {},
            "in the middle of a thou",
        ),
        ((THOUGHT, chunk("stop", {"recovered": "length"}, content="1")), {}, "ran out of tokens"),
        ((THOUGHT, chunk("stop", {"recovered": "repetition"}, content="1")), {}, "in circles"),
        ((*WHOLE, chunk("stop", {"failovers": 1})), {}, "An engine failed on the way; another"),
        ((*WHOLE, chunk("stop", {"failovers": 2})), {}, "failed on the way 2 times"),
        ((SAID, chunk("length")), {}, "reached the limit"),
        ((THOUGHT, chunk("stop")), {}, "said nothing"),
        (WHOLE, {"x-r1-budget-source": "brownout"}, "limited to 64 tokens"),
        (WHOLE, {"x-r1-thinking-token-budget": "50"}, "budget of 50 tokens and was closed"),
    ],
)
def test_what_happened_on_the_way_is_told(
    chunks: tuple[bytes, ...], more: dict[str, str], words: str
) -> None:
    (told,) = events(replied(*chunks, headers=HEADERS | more))
    assert words in told


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (b'{"error": {"message": "the engine broke off", "code": "engine_error"}}', "broke off"),
        (b"<html>", "can't be read"),
        (b'{"choices": 1}', "can't be read"),
    ],
)
def test_a_stream_that_fails_says_why(event: bytes, words: str) -> None:
    with pytest.raises(StreamFailed, match=words):
        Reply(0.0).add(event, 1.0)
    with pytest.raises(StreamFailed, match="can't be read"):
        Reply(0.0).comment(b"r1.votes " + event)


def test_the_toolbar_leaves_out_what_can_be_done_without() -> None:
    options = {"votes": "4"}
    lines = [toolbar("m", "math", options, width) for width in (80, 60, 40, 32, 10)]
    assert lines == [
        "m · preset math · votes 4 · Enter sends, Alt-Enter: new line, /help",
        "m · preset math · votes 4 · /help",
        "m · preset math · votes 4 · /help",
        "preset math · votes 4 · /help",
        "preset math · votes 4",
    ]


def test_sentences_begin_and_end_as_such() -> None:
    assert sentence("there is none") == "There is none."
    assert sentence("did you mean `x`?") == "Did you mean `x`?"
