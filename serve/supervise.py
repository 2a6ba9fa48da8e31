"""What the owners of processes share: the signals that end them, and the pace of restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Iterator
from typing import Any

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """SIGTERM and Ctrl-C as events: the first asks to stop, one more asks to hurry."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.on_signal)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def on_signal(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


class Backoff:
    """How long to wait before the next start: doubling, capped, forgotten after a good run."""

    def __init__(
        self, first_s: float = 1.0, most_s: float = 60.0, good_run_s: float = 300.0
    ) -> None:
        self._first_s, self._most_s, self._good_run_s = first_s, most_s, good_run_s
        self._next_s = first_s

    def delay_s(self, ran_for_s: float) -> float:
        """The wait after a process that ran for `ran_for_s` has died."""
        if ran_for_s >= self._good_run_s:
            self._next_s = self._first_s
        delay_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return delay_s


async def until_stopped(work: Awaitable[object], signals: StopSignals) -> bool:
    """Whether `work` came to its end before a signal did. A signal cancels it, which a server takes
    as the word to drain; one more cancels it again, to hurry. Raises what `work` raises unless it
    was stopped."""
    task = asyncio.ensure_future(work)
    asking = asyncio.create_task(_ask_to_end(task, signals))
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        asking.cancel()
    if signals.stop.is_set():
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("while stopping: %s", error)
        return False
    task.result()
    return True


async def _ask_to_end(task: asyncio.Future[object], signals: StopSignals) -> None:
    await signals.stop.wait()
    task.cancel()
    await signals.hurry.wait()
    task.cancel()


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancels a task, if there is one, and returns when it is over, however that was."""
    if task is not None:
        task.cancel()
        await asyncio.wait({task})


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Returns when one of them is done; cancelling this leaves them running."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
