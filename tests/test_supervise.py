"""Signals that end work, and the pace of restarts."""

from __future__ import annotations

import asyncio

import pytest

from serve.supervise import Backoff, StopSignals, until_stopped


def test_backoff_doubles_up_to_its_cap_and_forgets_after_a_good_run() -> None:
    """A crash loop slows down; an engine that ran well is started again at once."""
    backoff = Backoff(first_s=1, most_s=5, good_run_s=100)
    assert [backoff.delay_s(ran_for_s=10) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.delay_s(ran_for_s=100) == 1
    assert backoff.delay_s(ran_for_s=0) == 2


class Draining:
    """Work that drains when cancelled, and hurries when cancelled once more."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.drained = asyncio.Event()

    async def __call__(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("drains")
            try:
                await self.drained.wait()
            except asyncio.CancelledError:
                self.events.append("hurries")
            raise


async def test_a_signal_lets_work_drain_and_one_more_hurries_it() -> None:
    """The first cancels it once and waits; the second cancels it again."""
    signals, work = StopSignals(), Draining()
    waiting = asyncio.create_task(until_stopped(work(), signals))
    await asyncio.sleep(0)
    signals.on_signal()
    for _ in range(5):
        await asyncio.sleep(0)
    assert work.events == ["drains"]
    assert not waiting.done()
    signals.on_signal()
    assert await asyncio.wait_for(waiting, 10) is False
    assert work.events == ["drains", "hurries"]


async def test_work_that_ends_first_is_told_apart() -> None:
    """Its own end is True, its error is raised, and nothing waits for signals any more."""

    async def fails() -> None:
        raise ValueError("broken")

    signals = StopSignals()
    assert await until_stopped(asyncio.sleep(0), signals) is True
    with pytest.raises(ValueError, match="broken"):
        await until_stopped(fails(), signals)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_cancelling_the_wait_ends_the_work() -> None:
    """Not before the work has drained."""
    signals, work = StopSignals(), Draining()
    waiting = asyncio.create_task(until_stopped(work(), signals))
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.events == ["drains"]
    assert not waiting.done()
    work.drained.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
