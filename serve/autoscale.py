"""How many engines there should be, from what they run: the rule of Kubernetes' autoscaler
("Horizontal Pod Autoscaling" in its documentation) on the same signals. Pure.

Each signal asks for as many replicas as bring its mean per replica to its target; the largest wish
counts. Growing is done at once. Shrinking waits: the largest wish of the last while counts, so that
a lull of a minute doesn't cost the start of an engine in the next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from serve.load import EngineLoad
from serve.settings import AutoscaleSettings

TOLERANCE = 0.1
"""A signal this near to its target asks for no change, as in Kubernetes."""


class Demand(msgspec.Struct, frozen=True):
    """What the ready replicas run, and what waits for them in the router."""

    loads: Sequence[EngineLoad]
    num_queued: int = 0

    @property
    def num_requests(self) -> int:
        return self.num_queued + sum(load.num_running + load.num_waiting for load in self.loads)


class Autoscaler:
    def __init__(self, settings: AutoscaleSettings) -> None:
        self._settings = settings
        self._wishes: deque[tuple[float, int]] = deque()

    def num_replicas(self, now_s: float, demand: Demand, num_now: int) -> int:
        """How many there should be, where `num_now` are or are starting."""
        if not self._wishes:  # what was before is not known: as many as were asked for
            self._wishes.append((now_s, num_now))
        wish = self._wish(demand, num_now)
        self._wishes.append((now_s, wish))
        while self._wishes[0][0] < now_s - self._settings.scale_down_delay_s:
            self._wishes.popleft()
        if wish < num_now:
            wish = min(num_now, max(past for _, past in self._wishes))
        return self._bounded(wish)

    def _wish(self, demand: Demand, num_now: int) -> int:
        """Unknown loads ask for no change."""
        if not demand.loads:
            return num_now
        settings = self._settings
        usage = sum(load.kv_cache_usage for load in demand.loads)
        return max(
            self._asked(demand.num_requests, settings.target_requests_per_replica, num_now),
            self._asked(usage, settings.target_kv_cache_usage, num_now),
        )

    def _asked(self, total: float, target: float, num_now: int) -> int:
        if abs(total / (target * num_now) - 1) <= TOLERANCE:
            return num_now
        return math.ceil(total / target)

    def _bounded(self, wish: int) -> int:
        return min(max(wish, self._settings.min_replicas), self._settings.max_replicas or wish)
