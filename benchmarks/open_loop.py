"""Open-loop load: requests arrive as a Poisson process, whether or not earlier ones have ended.

Each visitor opens a connection, sends one streaming chat and reads it to its end. Told 429 or 503
with a Retry-After it comes back at that time, a few times, as the official SDKs do.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from benchmarks.load import TEXT, chat_request

_COUNT = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(slots=True)
class Attempt:
    """One request of one visitor; times in seconds since the load began."""

    sent_at_s: float
    status: int = 0
    ttft_s: float | None = None
    ended_at_s: float | None = None
    num_tokens: int = 0
    done: bool = False
    retry_after_s: float | None = None
    capped: bool = False
    """Whether the reply says that a brownout has set its budget."""
    body: bytearray = field(default_factory=bytearray)

    @property
    def content(self) -> str:
        """The answer's text."""
        events = [line[6:] for line in self.body.split(b"\n\n") if line.startswith(b"data: {")]
        choices = [choice for event in events for choice in json.loads(event).get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.done

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first."""
        if self.ttft_s is None or self.ended_at_s is None:
            return float("inf")
        span_s = self.ended_at_s - self.sent_at_s - self.ttft_s
        return span_s / max(1, self.num_tokens - 1)


@dataclass(slots=True)
class Visitor:
    attempts: list[Attempt] = field(default_factory=list)


class _Exchange(asyncio.Protocol):
    """One request on one connection."""

    def __init__(self, request: bytes, attempt: Attempt, clock: Clock) -> None:
        self._request, self.attempt, self._clock = request, attempt, clock
        self.ended = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after-ms":
            self.attempt.retry_after_s = float(value) / 1000
        elif name.lower() == b"retry-after" and self.attempt.retry_after_s is None:
            self.attempt.retry_after_s = float(value)
        elif name.lower() == b"x-r1-budget-source":
            self.attempt.capped = value == b"brownout"

    def on_headers_complete(self) -> None:
        self.attempt.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        attempt = self.attempt
        attempt.body += body
        if attempt.ttft_s is None and TEXT.search(body):
            attempt.ttft_s = self._clock.now_s() - attempt.sent_at_s
        if b"[DONE]" in body:
            attempt.done = True
        if found := _COUNT.search(body):
            attempt.num_tokens = int(found[1])

    def on_message_complete(self) -> None:
        self.attempt.ended_at_s = self._clock.now_s()
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self._start


@dataclass(frozen=True, slots=True)
class Arrivals:
    """`rate` visitors per second for `seconds`; refused ones come back at most `returns` times.
    All are cut off `patience_s` after the last arrival."""

    url: str
    model: str
    prompts: Sequence[str]
    rate: float
    seconds: float
    returns: int = 0
    patience_s: float = 10.0
    max_tokens: int = 400
    seed: int = 0
    extra: Sequence[Mapping[str, object]] = ({},)
    """Further fields of the requests, in turn."""

    def request(self, number: int) -> bytes:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompts[number % len(self.prompts)]}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self.max_tokens,
            "temperature": 0.6,
            "top_p": 0.95,
        }
        return chat_request(self.url, {**body, **self.extra[number % len(self.extra)]})


async def run(arrivals: Arrivals) -> list[Visitor]:
    """Puts the load on; returns when every visitor has ended or was cut off."""
    rng, clock = random.Random(arrivals.seed), Clock()
    visitors: list[Visitor] = []
    tasks: list[asyncio.Task[None]] = []
    next_at_s = rng.expovariate(arrivals.rate)
    while next_at_s < arrivals.seconds:
        await asyncio.sleep(max(0.0, next_at_s - clock.now_s()))
        visitor = Visitor()
        request = arrivals.request(len(visitors))
        visitors.append(visitor)
        tasks.append(asyncio.create_task(_visit(visitor, request, arrivals, clock)))
        next_at_s += rng.expovariate(arrivals.rate)
    left_s = arrivals.seconds + arrivals.patience_s - clock.now_s()
    _, late = await asyncio.wait(tasks, timeout=max(0.0, left_s))
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return visitors


async def _visit(visitor: Visitor, request: bytes, arrivals: Arrivals, clock: Clock) -> None:
    while True:
        attempt = Attempt(clock.now_s())
        visitor.attempts.append(attempt)
        await ask(arrivals.url, request, attempt, clock)
        if attempt.ok or attempt.retry_after_s is None:
            return
        if len(visitor.attempts) > arrivals.returns:
            return
        await asyncio.sleep(attempt.retry_after_s)


async def ask(url: str, request: bytes, attempt: Attempt, clock: Clock) -> None:
    """Sends one request and fills in what comes of it; cancelling it hangs up."""
    parts = urlsplit(url)
    try:
        _, exchange = await asyncio.get_running_loop().create_connection(
            lambda: _Exchange(request, attempt, clock), parts.hostname or "", parts.port or 80
        )
    except OSError:
        return
    try:
        await exchange.ended.wait()
    finally:
        exchange.transport.abort()
