"""Visitors: Poisson arrivals who come back when they are told to, as the official SDKs do.

Told 429 or 503 with a Retry-After, a visitor sends the same request again at that time, a few
times.
Everything else about an open loop is the load test's (`benchmarks/loadtest/`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

from benchmarks.loadtest.client import Client, Endpoint, Window, step_clock
from benchmarks.loadtest.load import Load, drawn
from benchmarks.loadtest.record import Record
from demo_model.answers import extract_boxed


@dataclass(slots=True)
class Visitor:
    attempts: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """`rate` visitors per second for `seconds`; refused ones come back at most `returns` times.
    All are cut off `patience_s` after the last arrival."""

    url: str
    model: str
    prompts: Sequence[str]
    rate: float
    seconds: float
    answers: Sequence[str | None] = (None,)
    """Of the prompts, in their order, for `Record.right`."""
    returns: int = 0
    patience_s: float = 10.0
    max_tokens: int = 400
    seed: int = 0
    extra: Sequence[Mapping[str, object]] = ({},)
    """Further fields of the requests, in turn."""

    def body(self, number: int) -> Mapping[str, object]:
        return {
            "messages": [{"role": "user", "content": self.prompts[number % len(self.prompts)]}],
            "max_tokens": self.max_tokens,
            "temperature": 0.6,
            "top_p": 0.95,
            **self.extra[number % len(self.extra)],
        }


class Asking:
    """Requests of `arrivals`, all timed by one clock. Closing it hangs up."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._client = Client(Endpoint(arrivals.url, arrivals.model))
        self.window = Window(step_clock())

    async def ask(self, number: int, record: Record) -> None:
        """Sends the `number`-th request; cancelling it hangs up."""
        content = await self._client.chat(self._arrivals.body(number), record, self.window)
        answers = self._arrivals.answers
        if record.ok:
            record.right = extract_boxed(content) == answers[number % len(answers)]

    def close(self) -> None:
        self._client.close()


async def run(arrivals: Arrivals) -> list[Visitor]:
    """Puts the load on; returns when every visitor has ended or was cut off."""
    asking, visitors = Asking(arrivals), list[Visitor]()
    tasks: list[asyncio.Task[None]] = []
    clock, seconds = asking.window.clock, arrivals.seconds
    times = drawn(Load("rate", arrivals.rate), Random(arrivals.seed))
    for number, arrival in enumerate(takewhile(lambda it: it.at_s < seconds, times)):
        await asyncio.sleep(max(0.0, arrival.at_s - clock()))
        visitors.append(visitor := Visitor())
        visitor.attempts.append(Record("visitor", arrival.at_s))
        tasks.append(asyncio.create_task(_visit(asking, visitor, number, arrivals.returns)))
    await asyncio.sleep(max(0.0, seconds - clock()))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(arrivals.patience_s):
            await asyncio.gather(*map(asyncio.shield, tasks))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    asking.close()
    return visitors


async def _visit(asking: Asking, visitor: Visitor, number: int, returns: int) -> None:
    while True:
        record = visitor.attempts[-1]
        await asking.ask(number, record)
        if record.ok or record.retry_after_s is None or len(visitor.attempts) > returns:
            return
        await asyncio.sleep(record.retry_after_s)
        visitor.attempts.append(Record("visitor", asking.window.clock()))
