"""One reply as it grows: the events of a stream are folded into it. Pure; times are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from serve.wire import UNREADABLE, EngineFault

_VOTES = b"r1.votes "
_DONE = b"[DONE]"


class StreamFailed(Exception):
    """The stream ended with an error, or can't be read; the message says which."""


class Piece(NamedTuple):
    """Text that has come."""

    kind: Literal["thinking", "answer"]
    text: str


class Group(msgspec.Struct):
    answer: str | None = None
    count: int = 0


class Tally(msgspec.Struct):
    """How a vote stands, the largest group first."""

    n: int
    counted: int
    answers: list[Group] = []


class Note(msgspec.Struct):
    """What happened on the way."""

    recovered: str | None = None
    failovers: int = 0
    votes: Tally | None = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    completion_tokens: int = 0
    completion_tokens_details: _Details | None = None

    @property
    def num_thinking(self) -> int:
        details = self.completion_tokens_details
        return (details and details.reasoning_tokens) or 0


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    r1: Note | None = None
    error: EngineFault | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_tally = msgspec.json.Decoder(Tally).decode


class Reply:
    """`begin` it with the reply's headers, `add` the events. Times are in s, on the caller's
    clock; None: not yet, or never."""

    def __init__(self, now_s: float) -> None:
        self._thinking: list[str] = []
        self._answer: list[str] = []
        self.tally: Tally | None = None
        self.usage: Usage | None = None
        self.note = Note()
        self.finish: str | None = None
        self.done = False
        self.preset: str | None = None
        self.budget_tokens: int | None = None
        self.budget_source = ""
        self.asked_s = now_s
        self.first_s: float | None = None
        self.answer_s: float | None = None
        self.ended_s: float | None = None
        """The caller's to set."""

    @property
    def thinking(self) -> str:
        return "".join(self._thinking)

    @property
    def answer(self) -> str:
        return "".join(self._answer)

    def begin(self, headers: Mapping[str, str]) -> None:
        self.preset = headers.get("x-r1-preset")
        self.budget_source = headers.get("x-r1-budget-source", "")
        budget = headers.get("x-r1-thinking-token-budget", "")
        self.budget_tokens = int(budget) if budget.isdecimal() else None

    def comment(self, text: bytes) -> None:
        """Takes the progress of a vote from it; others say nothing to us."""
        if text.startswith(_VOTES):
            try:
                self.tally = _decode_tally(text.removeprefix(_VOTES))
            except UNREADABLE as exc:
                raise StreamFailed(f"the tally of the vote can't be read: {exc}") from exc

    def add(self, event: bytes, now_s: float) -> list[Piece]:
        """What the event brings to be shown. Raises `StreamFailed`."""
        if event == _DONE:
            self.done = True
            return []
        try:
            chunk = _decode_chunk(event)
        except UNREADABLE as exc:
            raise StreamFailed(f"the reply can't be read: {exc}") from exc
        if chunk.error is not None:
            raise StreamFailed(chunk.error.message)
        self.usage = chunk.usage or self.usage
        if chunk.r1 is not None:
            self.note = chunk.r1
            self.tally = chunk.r1.votes or self.tally
        return [piece for choice in chunk.choices for piece in self._add_choice(choice, now_s)]

    def _add_choice(self, choice: _Choice, now_s: float) -> list[Piece]:
        self.finish = choice.finish_reason or self.finish
        delta, pieces = choice.delta, []
        if thought := delta.reasoning_content or delta.reasoning:
            self._thinking.append(thought)
            pieces.append(Piece("thinking", thought))
        if delta.content:
            self._answer.append(delta.content)
            pieces.append(Piece("answer", delta.content))
            self.answer_s = now_s if self.answer_s is None else self.answer_s
        if pieces and self.first_s is None:
            self.first_s = now_s
        return pieces
