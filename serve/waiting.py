"""Who may run, who waits, who is refused.

Pure: time is passed in, in seconds of one monotonic clock, and nothing sleeps.
"""

from __future__ import annotations

import asyncio
import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from serve.errors import TooManyRequests
from serve.pacing import Appointments, DrainRate
from serve.shared import QUEUED, RUNNING, Counters

NEWCOMERS_SHARE = 0.5
"""Of the time that the line may take; the rest is for those who come as told, in bunches, and go
before them."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits for a slot. `future`, where someone awaits it, learns the outcome."""

    order: tuple[int, bool, int]
    """(priority, is a newcomer, number): lower first; among equals who comes as told goes before
    newcomers, and else first come, first served."""
    who: int
    deadline_s: float
    admitted: bool = False
    refusal: TooManyRequests | None = None
    future: asyncio.Future[None] | None = field(default=None, repr=False)

    @property
    def priority(self) -> int:
        return self.order[0]

    def admit(self) -> None:
        """One whose future is cancelled has a slot all the same, and gives it back on its way out:
        no slot is lost between the two."""
        self.admitted = True
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def refuse(self, refusal: TooManyRequests) -> None:
        self.refusal = refusal
        if self.future is not None and not self.future.done():
            self.future.set_exception(refusal)


class Policy:
    """Slots up to `capacity()`, and a line of at most `max_queued` for them over all workers.

    No newcomer is put into the line who is not likely to get to its head within `queue_timeout_s`
    at the drain rate, behind all who wait or were told to come; one with a lower priority than the
    last in a full line takes that one's place. Who comes back as told is let into a full line, and
    before the newcomers in it: under a lasting overload these would otherwise take every place just
    before. Such come as fast as the line drains, so it stays within twice its bound.
    """

    def __init__(
        self,
        counters: Counters,
        capacity: Callable[[], int],
        *,
        max_queued: int,
        queue_timeout_s: float,
    ) -> None:
        self._counters = counters
        self._capacity = capacity
        self._max_queued = max_queued
        self._queue_timeout_s = queue_timeout_s
        self._rate = DrainRate()
        self._appointments = Appointments()
        self._num_arrived = 0
        self.line: list[Waiter] = []

    def arrive(self, priority: int, who: int, now_s: float) -> Waiter | None:
        """None: it runs. Else it stands in the line. Raises `TooManyRequests`."""
        is_back = self._appointments.keep(priority, who, now_s)
        if not self.line and self._take(now_s):
            return None
        self._num_arrived += 1
        order = (priority, not is_back, self._num_arrived)
        waiter = Waiter(order, who, now_s + self._queue_timeout_s)
        self._make_room(waiter, is_back, now_s)
        bisect.insort(self.line, waiter, key=_order)
        self._counters.add(QUEUED, 1)
        return waiter

    def pressure(self, priority: int, now_s: float) -> float:
        """On newcomers with this priority, from 0 to 2: the taken share of the slots, and that of
        the places in the line that there are before newcomers are refused. At 1 no slot is free."""
        taken = self._counters.total(RUNNING) / max(1, self._capacity())
        if taken < 1:
            return taken
        places = float(self._max_queued == 0)
        if self.line:  # the other workers' lines are taken to be like this one
            share = self._num_waiting(priority) / len(self.line)
            places = share * self._counters.total(QUEUED) / max(1, self._max_queued)
        most_ahead = self._most_ahead(now_s)
        if self._rate.is_known:
            places = max(places, self._num_ahead(priority) / most_ahead)
        return 1 + min(1.0, places)

    def take_free(self, now_s: float) -> bool:
        """A slot that nobody waits for, if there is one."""
        return not self.line and self._take(now_s)

    def leave(self, now_s: float) -> None:
        """One that ran has ended: the first in the line follows."""
        self._counters.add(RUNNING, -1)
        self._rate.ended(now_s)
        self.dispatch(now_s)
        if not self.line:
            self._rate.relaxed(now_s)

    def dispatch(self, now_s: float) -> None:
        """Lets in as many from the line as there are free slots."""
        while self.line and self._take(now_s):
            self._counters.add(QUEUED, -1)
            self.line.pop(0).admit()

    def expire(self, now_s: float) -> None:
        """Refuses those whose time in the line is up."""
        for waiter in [waiter for waiter in self.line if waiter.deadline_s <= now_s]:
            self.remove(waiter)
            waiter.refuse(
                self._refusal(
                    waiter,
                    now_s,
                    f"no room within {self._queue_timeout_s:g} s",
                    reason="queue_timeout",
                )
            )

    def remove(self, waiter: Waiter) -> None:
        """Takes one out of the line who doesn't want to wait any more."""
        at = bisect.bisect_left(self.line, waiter.order, key=_order)
        if at < len(self.line) and self.line[at] is waiter:
            del self.line[at]
            self._counters.add(QUEUED, -1)

    def _take(self, now_s: float) -> bool:
        """A slot, if there is one. Taken before it is looked at: two workers that reach for the
        last slot at once may both miss it, but do not both get it."""
        self._counters.add(RUNNING, 1)
        num_slots = self._capacity()
        num_left = num_slots - self._counters.total(RUNNING)
        if num_left <= 0:
            self._rate.saturated(now_s, num_slots)
        if num_left < 0:
            self._counters.add(RUNNING, -1)
        return num_left >= 0

    def _make_room(self, waiter: Waiter, is_back: bool, now_s: float) -> None:
        num_queued = self._counters.total(QUEUED)
        if is_back:
            if num_queued >= 2 * self._max_queued:
                raise self._full(waiter, now_s)
            return
        most_ahead = self._most_ahead(now_s)
        if self._rate.is_known and self._num_ahead(waiter.priority) > most_ahead:
            raise self._full(waiter, now_s)
        if num_queued >= self._max_queued:
            if not self.line or self.line[-1].priority <= waiter.priority:
                raise self._full(waiter, now_s)
            last = self.line[-1]
            self.remove(last)
            last.refuse(self._refusal(last, now_s, "more urgent requests came", reason="displaced"))

    def _num_ahead(self, priority: int) -> int:
        """Those who wait or were told to come, before a newcomer's turn."""
        return self._num_waiting(priority) + self._appointments.num_open(priority)

    def _most_ahead(self, now_s: float) -> float:
        """So many have their turn in the newcomers' time."""
        return self._rate.per_s(now_s) * NEWCOMERS_SHARE * self._queue_timeout_s

    def _num_waiting(self, priority: int) -> int:
        """Those in the line of this or a better priority."""
        return bisect.bisect_right(self.line, priority, key=lambda waiter: waiter.priority)

    def _full(self, waiter: Waiter, now_s: float) -> TooManyRequests:
        return self._refusal(
            waiter,
            now_s,
            f"{self._counters.total(RUNNING)} requests are running and "
            f"{self._counters.total(QUEUED)} wait, as many as this server can serve in time",
            reason="queue_full",
        )

    def _refusal(self, waiter: Waiter, now_s: float, why: str, *, reason: str) -> TooManyRequests:
        num_waiting = self._num_waiting(waiter.priority)
        wait_s = self._appointments.make(
            waiter.priority, waiter.who, now_s, num_waiting, self._rate.per_s(now_s)
        )
        return TooManyRequests(
            f"{why}; send the same request again in {math.ceil(wait_s)} s",
            reason=reason,
            retry_after_s=wait_s,
        )


def _order(waiter: Waiter) -> tuple[int, bool, int]:
    return waiter.order
