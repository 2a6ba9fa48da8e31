"""How fast the server gets through its work, and who is told to come back when.

Pure: time is passed in, in seconds of one monotonic clock.
"""

from __future__ import annotations

import heapq
import math

RATE_WINDOW_S = 10.0
"""How far back the drain rate looks: longer than the gaps between two ends, shorter than a
client's patience."""
FIRST_GUESS_S = 1.0
"""How long a generation is thought to take while none was measured. Too short rather than too long:
who comes back early learns better, who comes back late has lost the time."""
MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
EARLY_S = 0.25
"""So much before its time an appointment is kept all the same."""
LATE_S = 3.0
"""So long after its time: `Retry-After` is in whole seconds, and clients add a random part."""
PROMISED_SHARE = 0.8
"""Of the drain rate. A server all of whose time is promised never makes up for a late end. Of those
who came back, simulated with 8 slots of 5 s at 2 and 3 times capacity, 95 and 93 % got in; with all
of it promised 85 and 80 %. Newcomers get what is left."""

_Holder = tuple[int, int]
"""(priority, who)."""


class DrainRate:
    """Ends per second while every slot is taken, exponentially weighted.

    Only saturated time counts: the ends of an idle server tell how many came, not how many it could
    do. It is ends over time, both forgotten alike, so that the first guess fades without a case of
    its own, and a silence lowers the rate before the next end does.
    """

    def __init__(self) -> None:
        self._num_ended = 0.0
        self._time_s = 0.0
        self._since_s: float | None = None

    def saturated(self, now_s: float, num_slots: int) -> None:
        """Every one of `num_slots` is taken from now on."""
        if self._time_s == 0:
            self._num_ended, self._time_s = max(1, num_slots), FIRST_GUESS_S
        if self._since_s is None:
            self._since_s = now_s

    def relaxed(self, now_s: float) -> None:
        """A slot is free from now on."""
        self._advance(now_s)
        self._since_s = None

    def ended(self, now_s: float) -> None:
        if self._since_s is not None:
            self._advance(now_s)
            self._num_ended += 1

    @property
    def is_known(self) -> bool:
        """Whether it was measured for long enough (about 6 s) to refuse by it."""
        return self._time_s > RATE_WINDOW_S / 2

    def per_s(self, now_s: float) -> float:
        """Never zero; without bound before the first `saturated`."""
        self._advance(now_s)
        return max(self._num_ended / self._time_s, 1e-6) if self._time_s else math.inf

    def _advance(self, now_s: float) -> None:
        if self._since_s is None:
            return
        kept = math.exp((self._since_s - now_s) / RATE_WINDOW_S)
        self._num_ended *= kept
        self._time_s = self._time_s * kept + RATE_WINDOW_S * (1 - kept)
        self._since_s = now_s


class Appointments:
    """When those who were refused were told to come back.

    Clients are known by what they ask (a hash of the request): a client's retry is the same bytes
    again, and nothing else that it sends is sure to tell it from others. Several clients with one
    request hold several appointments, no matter whose is whose.
    """

    def __init__(self) -> None:
        self._times: dict[_Holder, list[float]] = {}
        self._order: list[tuple[float, _Holder]] = []
        self._num_open: dict[int, int] = {}

    def num_open(self, priority: int) -> int:
        """Those of this or a better priority, whose turn comes before a newcomer's."""
        return sum(num for other, num in self._num_open.items() if other <= priority)

    def make(
        self, priority: int, who: int, now_s: float, num_waiting: int, rate_per_s: float
    ) -> float:
        """How long to wait until those `num_waiting` in the line and all who hold an appointment
        have had their turn. Beyond `MAX_RETRY_S` there is no appointment, only advice."""
        self._forget(now_s)
        num_ahead = num_waiting + self.num_open(priority)
        wait_s = max(MIN_RETRY_S, (num_ahead + 1) / (rate_per_s * PROMISED_SHARE))
        if wait_s >= MAX_RETRY_S:
            return MAX_RETRY_S
        holder = (priority, who)
        heapq.heappush(self._times.setdefault(holder, []), now_s + wait_s)
        heapq.heappush(self._order, (now_s + wait_s, holder))
        self._num_open[priority] = self._num_open.get(priority, 0) + 1
        return wait_s

    def keep(self, priority: int, who: int, now_s: float) -> bool:
        """Whether `who` comes as told; the appointment is used up then."""
        if not self._order:
            return False
        self._forget(now_s)
        times = self._times.get((priority, who))
        if times is None or times[0] - EARLY_S > now_s:
            return False
        self._drop((priority, who), times)
        return True

    def _forget(self, now_s: float) -> None:
        while self._order and self._order[0][0] + LATE_S < now_s:
            time_s, holder = heapq.heappop(self._order)
            times = self._times.get(holder)
            if times is not None and times[0] <= time_s:  # else it was kept
                self._drop(holder, times)

    def _drop(self, holder: _Holder, times: list[float]) -> None:
        heapq.heappop(times)
        if not times:
            del self._times[holder]
        priority = holder[0]
        self._num_open[priority] -= 1
        if not self._num_open[priority]:
            del self._num_open[priority]
