"""The fleet follows `serve.autoscale` as in `serve.scaling`: a look every few seconds, none while
engines start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.fleet.engines import Engines
from benchmarks.fleet.events import Events
from benchmarks.fleet.replica import Replica, State
from serve.autoscale import Autoscaler, Demand
from serve.scaling import INTERVAL_S
from serve.settings import AutoscaleSettings


class Scaling:
    """`num_queued` tells who waits in the routers; `left` learns who gets no more requests."""

    def __init__(
        self,
        settings: AutoscaleSettings,
        startup_s: float,
        events: Events,
        engines: Engines,
        num_queued: Callable[[], int],
        left: Callable[[Replica], None],
    ) -> None:
        self._scaler = Autoscaler(settings)
        self._startup_s = startup_s
        self._events, self._engines = events, engines
        self._num_queued, self._left = num_queued, left
        self.num_changes = 0

    def look(self) -> float:
        """Scales where it is due; when to look again."""
        now_s = self._events.now_s
        ready = self._engines.ready
        demand = Demand([replica.load for replica in ready], self._num_queued())
        num_wanted = self._scaler.num_replicas(now_s, demand, len(ready))
        self.num_changes += num_wanted != len(ready)
        for replica in ready[num_wanted:]:
            self._left(replica)
            self._engines.let_leave(replica)
        if num_wanted <= len(ready):
            return now_s + INTERVAL_S
        new = self._engines.add(num_wanted - len(ready))
        self._events.at(now_s + self._startup_s, partial(_serve, new))
        return now_s + self._startup_s + INTERVAL_S


def _serve(replicas: Sequence[Replica]) -> None:
    for replica in replicas:
        replica.state = State.READY
