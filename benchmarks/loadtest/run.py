"""One test from its first load to its last: each is driven, observed, summed up and kept at once.

The loads are found in the first round and repeated in the others, so that what the machine does
meanwhile falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from benchmarks.loadtest.client import Endpoint
from benchmarks.loadtest.drive import Driver, Span, Step
from benchmarks.loadtest.figures import Seen, figures_of, queue_warning, warning_of
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.observe import Observer, figures_seen, served_model
from benchmarks.loadtest.plan import Sweep, next_load
from benchmarks.loadtest.record import Record
from benchmarks.loadtest.store import Point, Repeat, Run, Store
from benchmarks.loadtest.workload import Conversations
from benchmarks.machine import Machine
from benchmarks.slo import Slo
from serve.supervise import end

T = TypeVar("T", int, float)

IDLE_TIMEOUT_S = 30.0
CURVE_POINTS = 100
MAX_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of whom."""

    endpoint: Endpoint
    conversations: Conversations
    sweep: Sweep
    span: Span
    slo: Slo
    repeats: int = 1


class Progress:
    """Told how a test goes; by default it tells nobody."""

    def begins(self, load: Load, repeat: int, step: Step) -> None: ...

    def ended(self, load: Load, repeat: int, found: Repeat) -> None: ...


async def run_test(plan: Plan, run: Run, store: Store, progress: Progress) -> None:
    """Fills in `run` and keeps it in `store` after each step. Cancelled, what was measured until
    then is kept too, that of the step under way marked as interrupted."""
    driver = Driver(plan.endpoint, plan.conversations)
    try:
        for repeat in range(plan.repeats):
            for number in itertools.count():
                point = _point(run, plan, repeat, number)
                if point is None:
                    break
                await _measure(plan, driver, point, repeat, _Keeping(run, store, progress))
    except asyncio.CancelledError:
        run.interrupted = True
        raise
    finally:
        store.write(run)


def _point(run: Run, plan: Plan, repeat: int, number: int) -> Point | None:
    """The `number`-th of this round; a new one is added in the first."""
    if repeat == 0:
        load = next_load(plan.sweep, run.points, plan.slo.share)
        if load is not None:
            run.points.append(Point(load))
    return run.points[number] if number < len(run.points) else None


@dataclass(frozen=True, slots=True)
class _Keeping:
    """Where the outcome of a step goes."""

    run: Run
    store: Store
    progress: Progress

    def keep(self, point: Point, repeat: int, found: Repeat, records: Sequence[Record]) -> None:
        point.repeats.append(found)
        self.store.add_records(point.load, repeat, records)
        self.store.write(self.run)
        self.progress.ended(point.load, repeat, found)


async def _measure(
    plan: Plan, driver: Driver, point: Point, repeat: int, keeping: _Keeping
) -> None:
    step = Step(point.load, plan.span)
    observer = Observer(plan.endpoint, step.window.clock)
    observing = asyncio.create_task(observer.run())
    keeping.progress.begins(point.load, repeat, step)
    try:
        await driver.run(step, repeat)
    finally:
        await end(observing)
        if step.has_begun:
            keeping.keep(point, repeat, summed_up(step, observer, plan.slo), step.records)
    await wait_idle(plan.endpoint)


def summed_up(step: Step, observer: Observer, slo: Slo) -> Repeat:
    """What is kept of a step."""
    window = step.window
    seen = Seen(
        step.measured,
        step.records,
        window.begin_s,
        window.end_s,
        window.num_events,
        window.gaps_s,
        step.lags_s,
        step.client_cpu_s,
    )
    figures = figures_of(seen, slo)
    num_tokens = figures.get("output_tokens_per_s", 0.0) * seen.span_s
    figures |= figures_seen(observer.samples, seen.begin_s, seen.end_s, num_tokens)
    warnings = [warning_of(figures, seen.records)]
    if step.load.kind == "rate" and not step.runs_out:
        warnings.append(queue_warning(figures, seen.span_s))
    ok = [record for record in seen.records if record.ok]
    counted = [record for record in seen.records if record.ok or record.unfinished]
    return Repeat(
        figures,
        seen.begin_s,
        seen.end_s,
        observer.samples,
        {name: curve(_ms(counted, f"{name}_s")) for name in ("ttft", "ttfa", "e2e")},
        _lengths(ok),
        _errors(seen.records),
        "; ".join(filter(None, warnings)),
        step.interrupted,
    )


def _errors(records: Sequence[Record]) -> dict[str, int]:
    """The most frequent ones, and how often."""
    counts = Counter(record.error for record in records if record.error)
    return dict(counts.most_common(MAX_ERRORS))


def _ms(records: Sequence[Record], name: str) -> list[float]:
    values = (getattr(record, name) for record in records)
    return [round(1000 * value, 2) for value in values if value is not None]


def _lengths(ok: Sequence[Record]) -> dict[str, list[int]]:
    return {
        "prompt": curve([record.prompt_tokens for record in ok]),
        "thinking": curve([record.reasoning_tokens for record in ok]),
        "answer": curve([record.output_tokens - record.reasoning_tokens for record in ok]),
    }


def curve(values: Sequence[T]) -> list[T]:
    """The values in order, or so many of them, evenly, the least and the greatest included."""
    ordered = sorted(values)
    if len(ordered) <= CURVE_POINTS:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]


async def wait_idle(endpoint: Endpoint) -> None:
    """Until the engines run nothing that was hung up on; at once where that can't be seen."""
    observer = Observer(endpoint, lambda: 0.0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            await observer.until_idle()


async def new_run(plan: Plan, name: str, command: str) -> tuple[Plan, Run]:
    """A test that is about to begin; of an endpoint without a model it takes the first. Raises
    `SettingsError` where the endpoint doesn't answer or doesn't serve the model."""
    model, server = await served_model(plan.endpoint)
    plan = replace(plan, endpoint=replace(plan.endpoint, model=model))
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    machine = Machine.here()
    run = Run(
        name,
        began_at,
        command,
        plan.endpoint.url,
        model,
        plan.conversations.workload,
        plan.slo,
        plan.span,
        machine,
        server,
    )
    return plan, run
