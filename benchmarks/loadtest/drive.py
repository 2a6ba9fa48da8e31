"""Puts one load on an endpoint and gives the records of what came of it: one step of a test.

A step is warm-up, measured window, and a tail in which the load goes on until what was sent within
the window has ended (at most `drain_s`), so that the last requests don't get an emptier server than
the others. Then all that is left is hung up on. Where the work runs out (a batch, a trace) the
window is all of it: from the beginning to the last reply, or until none has ended for `drain_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import resource
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.loadtest.client import Client, Endpoint, Window, step_clock
from benchmarks.loadtest.load import Arrival, Load, arrivals
from benchmarks.loadtest.prompts import Check
from benchmarks.loadtest.record import Record
from benchmarks.loadtest.workload import Conversation, Conversations, Turn

LAG_INTERVAL_S = 0.05
POLL_S = 0.1
RETRY_S = 1.0
"""Before a client of a closed loop asks again where no Retry-After says when."""


@dataclass(frozen=True, slots=True)
class Span:
    """How long a step takes."""

    warm_up_s: float = 5.0
    measure_s: float = 30.0
    drain_s: float = 30.0


@dataclass(slots=True)
class Step:
    """What was seen. `records` are of all requests; figures take those sent within the window."""

    load: Load
    span: Span
    records: list[Record] = field(default_factory=list)
    window: Window = field(default_factory=lambda: Window(step_clock()))
    lags_s: list[float] = field(default_factory=list)
    """How late the client's own event loop was, looked at each 50 ms within the window."""
    client_cpu_s: float = 0.0
    """Of this process, within the window."""
    interrupted: bool = False
    unchecked: list[tuple[Record, Check, str]] = field(default_factory=list)
    """Answers to be held against their tasks once nothing is timed any more."""

    @property
    def measured(self) -> list[Record]:
        """Requests due within the window, or within what there was of it; of a step that was
        interrupted those that had ended."""
        begin_s, end_s = self.window.begin_s, self.window.end_s
        return [
            record
            for record in self.records
            if begin_s <= record.due_at_s < end_s and not (self.interrupted and record.unfinished)
        ]

    @property
    def has_begun(self) -> bool:
        """Whether there is anything of its window."""
        return self.window.end_s > self.window.begin_s

    @property
    def runs_out(self) -> bool:
        """Whether its work has an end, which then ends the window."""
        return self.load.kind == "batch" or bool(self.load.trace)

    def check(self) -> None:
        for record, check, content in self.unchecked:
            record.right = _holds(check, content)
        self.unchecked.clear()


def _holds(check: Check, content: str) -> bool:
    try:
        return check(content)
    except Exception:  # a checker of others, given what a model says
        return False


class Driver:
    """Drives `endpoint` with a workload's conversations."""

    def __init__(self, endpoint: Endpoint, conversations: Conversations) -> None:
        self._endpoint = endpoint
        self._conversations = conversations

    async def run(self, step: Step, repeat: int = 0) -> None:
        """Fills in the step. Cancelled, the step holds what was measured until then."""
        self._conversations.restart(f"{repeat}/{step.load.label}")
        client, window = Client(self._endpoint), step.window
        run = _Run(client, self._conversations, step)
        _set_window(step)
        feeding = asyncio.create_task(run.feed(repeat))
        watching = asyncio.create_task(_watch_self(step))
        try:
            if step.runs_out:
                await _until(lambda: feeding.done() and (run.idle or run.stuck()))
                last_s = max((it.ended_at_s or 0.0 for it in step.records), default=0.0)
                window.end_s = math.nextafter(last_s, math.inf)
            else:
                await _until(lambda: window.clock() >= window.end_s or run.broken(feeding))
                run.raise_failure(feeding)
                deadline_s = window.end_s + step.span.drain_s
                await _until(lambda: run.all_ended() or window.clock() >= deadline_s)
            run.raise_failure(feeding)
        except asyncio.CancelledError:
            step.interrupted = True
            window.end_s = min(window.end_s, window.clock())
            raise
        finally:
            await _end(feeding, watching, *run.running)
            client.close()
            step.check()


def _set_window(step: Step) -> None:
    span, load = step.span, step.load
    if step.runs_out:
        step.window.end_s = math.inf
    else:
        step.window.begin_s = max(span.warm_up_s, load.ramp_s)
        step.window.end_s = step.window.begin_s + span.measure_s


class _Run:
    """The tasks of one step."""

    def __init__(self, client: Client, conversations: Conversations, step: Step) -> None:
        self._client, self._conversations, self._step = client, conversations, step
        self.running: set[asyncio.Task[object]] = set()
        self._failure: BaseException | None = None
        self._num_ended, self._ended_at_s = 0, 0.0

    @property
    def idle(self) -> bool:
        return not self.running

    def stuck(self) -> bool:
        """Whether no reply has ended for as long as the client is patient."""
        now_s, num_ended = self._step.window.clock(), sum(map(_has_ended, self._step.records))
        if num_ended > self._num_ended or not self._ended_at_s:
            self._num_ended, self._ended_at_s = num_ended, now_s
        return now_s - self._ended_at_s > self._step.span.drain_s

    def all_ended(self) -> bool:
        """Whether what was sent within the window has."""
        return all(map(_has_ended, self._step.measured))

    def broken(self, feeding: asyncio.Task[None]) -> bool:
        return self._failure is not None or feeding.done()

    def raise_failure(self, feeding: asyncio.Task[None]) -> None:
        """A mistake of ours ends the test, instead of a client that quietly is one fewer."""
        if self._failure is not None:
            raise self._failure
        if feeding.done():
            feeding.result()

    async def feed(self, repeat: int) -> None:
        load = self._step.load
        match load.kind:
            case "concurrency":
                await self._closed(load)
            case "rate":
                await self._open(arrivals(load, Random(f"arrivals/{repeat}")))
            case "batch":
                await self._open(Arrival(0.0) for _ in range(round(load.value)))

    async def _open(self, times: Iterator[Arrival]) -> None:
        clock = self._step.window.clock
        for arrival in times:
            await asyncio.sleep(max(0.0, arrival.at_s - clock()))
            conversation = self._conversations.next(arrival)
            self._start(self._converse(conversation, arrival.at_s))

    async def _closed(self, load: Load) -> None:
        """Clients begin one after the other over the ramp, each with the next conversation as soon
        as it has ended one."""
        ramp_s = load.ramp_s or self._step.span.warm_up_s / 2
        num_clients = max(1, round(load.value))
        for _ in range(num_clients):
            self._start(self._client_loop())
            await asyncio.sleep(ramp_s / num_clients)
        await asyncio.Event().wait()

    async def _client_loop(self) -> None:
        while True:
            failed = await self._converse(self._conversations.next(), None)
            if failed is not None:  # a server that refuses is not asked in a tight loop
                await asyncio.sleep(failed.retry_after_s or RETRY_S)

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error

    async def _converse(self, conversation: Conversation, due_at_s: float | None) -> Record | None:
        """All turns, one after the other; the one that failed, which ends it."""
        messages: list[dict[str, str]] = []
        if conversation.system is not None:
            messages.append({"role": "system", "content": conversation.system})
        for number, turn in enumerate(conversation.turns):
            if number:
                await asyncio.sleep(turn.pause_s)
                due_at_s = None
            messages.append({"role": "user", "content": turn.task.prompt})
            clock = self._step.window.clock
            record = Record(conversation.tenant, clock() if due_at_s is None else due_at_s, number)
            content = await self._ask(turn, messages, record)
            if not record.ok:
                return record
            messages.append({"role": "assistant", "content": content})
        return None

    async def _ask(self, turn: Turn, messages: list[dict[str, str]], record: Record) -> str:
        self._step.records.append(record)
        body = {"messages": messages, **turn.fields}
        content = await self._client.chat(body, record, self._step.window)
        if turn.task.check is not None and record.ok:
            self._step.unchecked.append((record, turn.task.check, content))
        return content


async def _watch_self(step: Step) -> None:
    """How late this process is, and what it takes of a core: a client that is short of CPU measures
    itself."""
    window = step.window
    await asyncio.sleep(max(0.0, window.begin_s - window.clock()))
    began_s = _cpu_s()
    try:
        for number in itertools.count(1):
            due_s = window.begin_s + number * LAG_INTERVAL_S
            if due_s >= window.end_s:
                break
            await asyncio.sleep(max(0.0, due_s - window.clock()))
            step.lags_s.append(window.clock() - due_s)
    finally:
        step.client_cpu_s = _cpu_s() - began_s


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _has_ended(record: Record) -> bool:
    return record.ended_at_s is not None or bool(record.error)


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - what ends are plain records; polling costs little here
        await asyncio.sleep(POLL_S)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
