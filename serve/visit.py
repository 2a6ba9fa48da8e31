"""One request from its arrival to its end: its id, its trace, and the record that is told of it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import overload

from starlette.types import Message, Scope, Send

from serve.errors import ServeError, outcome_of
from serve.legs import Leg, Legs, Trace
from serve.record import GONE_STATUS, LegRecord, Record, Told
from serve.stopwatch import Stopwatch

SCOPE_KEY = "r1.visit"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""Of a client: what can't break a header, a log or a shell."""


class Visit:
    __slots__ = (
        "began_ns",
        "error",
        "key",
        "legs",
        "method",
        "outcome",
        "reply",
        "request_id",
        "route",
        "status",
        "trace",
        "watch",
    )

    def __init__(self, method: str = "", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.watch = Stopwatch()
        self.began_ns = time.time_ns()
        self.method = method
        self.request_id = sent_request_id(headers)
        """What the client sent, else what `identify` makes it."""
        self.trace: Trace | None = None
        self.legs = Legs()
        self.reply: Told | None = None
        """Who serves it, while it is open."""
        self.route: str | None = None
        self.key: str | None = None
        self.outcome = "ok"
        self.status = 0
        """That was sent; 0: none yet."""
        self.error: str | None = None

    def identify(self, reply_id: str | None = None) -> str:
        """The request's id from now on: the client's, the reply's, or one of its own."""
        if not self.request_id:
            self.request_id = reply_id or f"req_{secrets.token_hex(16)}"
        return self.request_id

    def failed(self, error: ServeError) -> None:
        """What the client is told, or would be."""
        self.outcome, self.error = outcome_of(error), error.code

    def noting(self, send: Send) -> Send:
        """`send` for a reply that doesn't note its status and bring its id itself."""

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = (*message["headers"], (b"x-request-id", self.identify().encode()))
                message = {**message, "headers": headers}
            await send(message)

        return noted

    def record(self, reply: Told | None) -> Record:
        """Once it has ended; `reply` is who served it, if somebody did."""
        watch, legs, elapsed_s = self.watch, self.legs.all, self.watch.elapsed_s()
        record = Record(
            timestamp=timestamp(time.time_ns()),
            request_id=self.identify(),
            method=self.method,
            route=self.route,
            status=self.status or GONE_STATUS,
            outcome=self.outcome,
            error=self.error,
            key=self.key,
            first_token_ms=_ms(watch.first_token_s),
            first_answer_ms=_ms(watch.first_answer_s),
            total_ms=_ms(elapsed_s),
            trace_id=None if self.trace is None else self.trace.id,
        )
        if legs:
            began_s = time.perf_counter() - elapsed_s
            record.num_legs = len(legs)
            record.legs = [_told(leg, began_s) for leg in legs]
        if reply is not None:
            reply.tell(record)
        return record


def visit_of(scope: Scope) -> Visit:
    visit: Visit = scope[SCOPE_KEY]
    return visit


def sent_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's `x-request-id`; empty where there is none, or none that can be used."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode("ascii")
    return ""


def timestamp(epoch_ns: int) -> str:
    """RFC 3339, UTC, in milliseconds."""
    at = datetime.fromtimestamp(epoch_ns // 1_000_000 / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _told(leg: Leg, began_s: float) -> LegRecord:
    ended_s = time.perf_counter() if leg.ended_s is None else leg.ended_s
    return LegRecord(
        kind=leg.kind,
        replica=leg.replica,
        at_ms=_ms(leg.began_s - began_s),
        ms=_ms(ended_s - leg.began_s),
        choice=leg.choice,
        tokens=leg.num_tokens,
        error=leg.error,
        span_id=f"{leg.span_id:016x}" if leg.span_id else None,
    )


@overload
def _ms(seconds: float) -> float: ...
@overload
def _ms(seconds: None) -> None: ...
def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
