"""The legs of a reply as they come: each call at an engine, why it was made and what became of it.

Also the trace that they are parts of, as far as it travels in headers (W3C Trace Context,
https://www.w3.org/TR/trace-context/). Pure; `serve.tracing` makes spans of them.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Literal

LegKind = Literal["first", "retry", "failover", "recovery", "budget", "breaker"]
"""Why a call was made: it is the first; the one before it wasn't accepted; the engine failed in the
middle; the trace ended without an answer, at the thinking budget, or because it went in circles."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace that a request belongs to; `span_id` is that of the request itself."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""
    """`tracestate`, passed on as it came."""
    parent_id: int = 0
    """The caller's span; 0: this request begins the trace."""

    @property
    def id(self) -> str:
        return f"{self.trace_id:032x}"

    def headers(self, span_id: int) -> dict[str, str]:
        """Of a call that is the span `span_id`."""
        headers = {"traceparent": f"00-{self.id}-{span_id:016x}-{self.sampled:02x}"}
        if self.state:
            headers["tracestate"] = self.state
        return headers


def new_span_id() -> int:
    return random.getrandbits(64) or 1


@dataclass(slots=True)
class Leg:
    """One call. Times are `time.perf_counter`'s."""

    kind: LegKind
    replica: str
    choice: int
    """Which of the reply's generations it is for."""
    began_s: float = field(default_factory=time.perf_counter)
    ended_s: float | None = None
    num_tokens: int | None = None
    """That it brought; None where nobody counts."""
    error: str | None = None
    """The class of what ended it too early."""
    span_id: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """Of the call."""

    def end(self, error: BaseException | None = None) -> None:
        """The first of several ends counts."""
        if self.ended_s is None:
            self.ended_s = time.perf_counter()
        if error is not None and self.error is None:
            self.error = type(error).__name__


class Legs:
    """Those of one reply, in order, as one of its generations adds to them."""

    __slots__ = ("_choice", "_last", "all", "kind", "trace")

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace
        self._choice = 0
        self._last: Leg | None = None
        self.all: list[Leg] = []
        self.kind: LegKind = "first"
        """Of the next one."""

    def of(self, choice: int) -> Legs:
        """What the generation `choice` adds to."""
        legs = Legs(self.trace)
        legs._choice, legs.all = choice, self.all
        return legs

    def begin(self, replica: str) -> Leg:
        """A call at `replica` is about to be sent."""
        leg = Leg(self.kind, replica, self._choice)
        if self.trace is not None:
            leg.span_id = new_span_id()
            leg.headers = self.trace.headers(leg.span_id)
        self.all.append(leg)
        self._last = leg
        self.kind = "retry"
        return leg

    def brought(self, num_tokens: int) -> None:
        """What the last call came to."""
        if self._last is not None:
            self._last.num_tokens = num_tokens
