"""What is told of a request at its end: a line of the access log, and what a trace is made of.

It holds how the request went and never what was in it: no prompts, answers, header values or
messages of errors, and of names only those that the router knows. Pure.
"""

from __future__ import annotations

import select
from typing import Protocol

import msgspec

from serve.legs import LegKind

MAX_LEGS = 16
"""Of one line: a vote has dozens."""
MAX_LINE_BYTES = select.PIPE_BUF
"""What pipes take whole, whoever else writes to them (POSIX, `write`): 4,096 on Linux."""
GONE_STATUS = 499
"""nginx's: the client went before anything was sent."""


class LegRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    kind: LegKind
    replica: str
    at_ms: float
    """When it began, after the request did."""
    ms: float
    choice: int = 0
    tokens: int | None = None
    error: str | None = None
    """The class of what ended it too early."""
    span_id: str | None = None


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Fields without a value are left out. Times are in milliseconds since the request began."""

    timestamp: str = ""
    """RFC 3339, UTC: when the request ended."""
    request_id: str = ""
    """The reply's `x-request-id`."""
    id: str | None = None
    """The reply's own, also that in the engine's log."""
    method: str = ""
    route: str | None = None
    """None: there is no such route."""
    status: int = 0
    outcome: str = ""
    """`ok`, `invalid`, `rejected`, `unavailable`, `error`, `client_gone`: as metrics have it."""
    error: str | None = None
    """`error.code` of the reply, or of a stream's last event."""
    key: str | None = None
    """The key's name."""
    model: str | None = None
    preset: str | None = None
    stream: bool | None = None
    choices: int | None = None
    priority: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    answer_tokens: int | None = None
    thinking_token_budget: int | None = None
    budget_source: str | None = None
    thinking_ended_by: list[str] | None = None
    """By generation."""
    queued_ms: float | None = None
    """For a slot, also of one who got none."""
    first_token_ms: float | None = None
    first_answer_ms: float | None = None
    total_ms: float = 0.0
    num_legs: int | None = None
    legs: list[LegRecord] | None = None
    votes: dict[str, object] | None = None
    trace_id: str | None = None


class Told(Protocol):
    """A reply, as far as it knows how it went."""

    def tell(self, record: Record) -> None:
        """Fills in what it knows."""


def line_of(record: Record) -> bytes:
    """One line of JSON, with the first `MAX_LEGS` legs. Of at most `MAX_LINE_BYTES`, with any names
    of a sane length: what there is many of is left out where it would be longer."""
    if record.legs and len(record.legs) > MAX_LEGS:
        record = msgspec.structs.replace(record, legs=record.legs[:MAX_LEGS])
    line = msgspec.json.encode(record) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        record = msgspec.structs.replace(record, legs=None)
        line = msgspec.json.encode(record) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        record = msgspec.structs.replace(record, thinking_ended_by=None, votes=None)
        line = msgspec.json.encode(record) + b"\n"
    return line
