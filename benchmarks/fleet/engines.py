"""All replicas, and what runs on them: legs begin and end, replicas die, come and leave.

Engines are advanced only when something happens on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial

from benchmarks.fleet.events import Events
from benchmarks.fleet.replica import Replica, State
from benchmarks.fleet.traffic import Generation
from benchmarks.fleet.world import World

Ended = Callable[[Generation, Replica], None]
"""A leg is over, on this replica."""


class Engines:
    def __init__(self, world: World, events: Events, ended: Ended, broken: Ended) -> None:
        self._world, self._events = world, events
        self._ended, self._broken = ended, broken
        self._indices = itertools.count(world.num_replicas)
        self.replicas = [Replica(index, world) for index in range(world.num_replicas)]
        """All that cost, the dead included that will be back."""

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.state is State.READY]

    def begin(self, replica: Replica, generation: Generation, cached_tokens: int) -> None:
        """Its next leg."""
        leg = generation.leg(self._events.now_s, cached_tokens)
        replica.generations[leg] = generation
        replica.engine.submit(leg, self._events.now_s)
        self._watch(replica)

    # ---- coming and going ----

    def add(self, num: int) -> list[Replica]:
        """They start."""
        new = [Replica(next(self._indices), self._world, State.STARTING) for _ in range(num)]
        self.replicas += new
        return new

    def let_leave(self, replica: Replica) -> None:
        """It ends when what it runs has ended; what takes too long goes on elsewhere."""
        replica.state = State.LEAVING
        self._leave_if_idle(replica)
        if replica.state is State.LEAVING:
            self._events.at(self._events.now_s + self._world.drain_s, partial(self._cut, replica))

    def die(self, replicas: Iterable[Replica]) -> None:
        """All at once. They come back empty."""
        doomed = list(replicas)
        self._end(doomed)
        for replica in doomed:
            back_s = self._events.now_s + self._world.restart_s
            self._events.at(back_s, partial(self._come_back, replica))

    def _come_back(self, replica: Replica) -> None:
        replica.state = State.READY

    def _cut(self, replica: Replica) -> None:
        if replica.state is State.LEAVING:
            self._end([replica])
            self.replicas.remove(replica)

    def _leave_if_idle(self, replica: Replica) -> None:
        if replica.state is State.LEAVING and not replica.generations:
            replica.state = State.DEAD
            self.replicas.remove(replica)

    def _end(self, replicas: list[Replica]) -> None:
        broken = []
        for replica in replicas:
            self._advance(replica)
        for replica in replicas:
            replica.state = State.DEAD
            # With each that is removed the step under way gets shorter, so the last may yet end.
            for leg, generation in replica.generations.items():
                generation.took(leg, replica.engine.remove(leg, self._events.now_s))
                broken.append((generation, replica))
            replica.clear()
        for generation, replica in broken:
            has_ended = generation.num_done == generation.output_tokens
            (self._ended if has_ended else self._broken)(generation, replica)

    # ---- one engine ----

    def _watch(self, replica: Replica) -> None:
        next_s = replica.engine.next_event_s()
        if next_s is not None and next_s < replica.wake_s:
            replica.wake_s = next_s
            self._events.at(next_s, partial(self._wake, replica, next_s))

    def _wake(self, replica: Replica, due_s: float) -> None:
        if replica.wake_s == due_s:  # else something came first
            self._advance(replica)
            replica.wake_s = float("inf")
            self._watch(replica)
            self._leave_if_idle(replica)

    def _advance(self, replica: Replica) -> None:
        for leg in replica.engine.advance(self._events.now_s):
            generation = replica.generations.pop(leg)
            generation.took(leg, leg.output_tokens)
            self._ended(generation, replica)
