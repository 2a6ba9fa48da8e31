"""One router: its own policies from `serve`, with a simulated clock, on what a router really knows.

It knows its own requests at once, and of the engines what it saw when it last looked. Not
simulated: HTTP, health checks (who is down is noticed by a call, a broken stream or the next look),
keys, votes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.fleet.replica import Replica, State
from benchmarks.fleet.world import World
from serve.balancing import Policy as Balancer
from serve.brownout import Brownout
from serve.load import engine_pressure
from serve.retries import RetryBudget
from serve.shared import QUEUED, RUNNING, Counters
from serve.waiting import Policy


@dataclass(slots=True, eq=False)
class View:
    """A replica as one router knows it: a candidate of `serve.balancing`."""

    url: str
    replica: Replica
    own: int = 0
    load: int = 0
    """Its own requests there, and the others' when it last looked."""

    def began(self) -> None:
        self.own += 1
        self.load += 1

    def ended(self) -> None:
        self.own -= 1
        self.load -= 1


class Router:
    def __init__(self, world: World, policy: Balancer, clock: Callable[[], float]) -> None:
        self._limit = world.max_in_flight_per_replica
        self._max_in_flight = world.max_in_flight
        self._policy = policy
        self._clock = clock
        self._engine_pressure = 0.0
        self._counters = Counters.alone()
        self.gate = Policy(
            self._counters,
            self._capacity,
            max_queued=world.max_queued,
            queue_timeout_s=world.queue_timeout_s,
        )
        self.brownout = Brownout(world.brownout, self._pressure, clock)
        self.retries = RetryBudget()
        self._views: dict[Replica, View] = {}
        self._candidates: list[View] = []

    @property
    def num_running(self) -> int:
        return self._counters.total(RUNNING)

    @property
    def num_queued(self) -> int:
        return self._counters.total(QUEUED)

    def choose(self, key: bytes, avoid: set[str]) -> View | None:
        """As `serve.replicas.ReplicaSet.choose`; None where there is no replica."""
        candidates = self._candidates
        if avoid:
            candidates = [it for it in candidates if it.url not in avoid] or candidates
        if self._limit is not None:
            candidates = [it for it in candidates if it.own < self._limit] or candidates
        return self._policy.choose(candidates, key) if candidates else None

    def lost(self, replica: Replica) -> None:
        """Out of rotation."""
        self._candidates = [it for it in self._candidates if it.replica is not replica]

    def look(self, replicas: Iterable[Replica]) -> None:
        """At all engines: which serve, and how busy they are."""
        self._candidates = []
        loads = []
        for replica in replicas:
            if replica.state is not State.READY:
                continue
            load = replica.load
            loads.append(load)
            view = self.view(replica)
            view.load = max(view.own, load.num_running + load.num_waiting)
            self._candidates.append(view)
        self._engine_pressure = engine_pressure(loads)
        self.gate.dispatch(self._clock())

    def view(self, replica: Replica) -> View:
        view = self._views.get(replica)
        if view is None:
            view = self._views[replica] = View(replica.url, replica)
        return view

    def _capacity(self) -> int:
        if self._limit is None:
            return self._max_in_flight
        return min(self._max_in_flight, self._limit * len(self._candidates))

    def _pressure(self, priority: int) -> float:
        """As `serve.state.Router`; the engines' part changes only with a look at them."""
        return max(self.gate.pressure(priority, self._clock()), self._engine_pressure)
