"""Clients and routers around the engines, in simulated time.

A client comes to a router's gate, gets a slot, stands in the line or is told when to come back; who
has a slot runs where the router chooses, leg after leg.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import cast

from benchmarks.fleet.engines import Engines
from benchmarks.fleet.events import Events
from benchmarks.fleet.outcome import Outcome, Recorder
from benchmarks.fleet.replica import Replica
from benchmarks.fleet.router import Router
from benchmarks.fleet.scaling import Scaling
from benchmarks.fleet.traffic import MAX_TOKENS, Conversation, Generation
from benchmarks.fleet.world import Fault, World
from serve.balancing import Policy, make_policy
from serve.errors import TooManyRequests
from serve.generation import MAX_FAILOVERS
from serve.waiting import Waiter

MakePolicy = Callable[[random.Random], Policy]
PRESET = "chat"
UNSEEN_TOKENS = 16
"""Of a trace that is cut; its last block isn't in the prefix cache."""


class _Turn:
    """What `serve.waiting` takes for the future of one who waits."""

    def __init__(self, admitted: Callable[[], None], refused: Callable[[TooManyRequests], None]):
        self._admitted, self._refused = admitted, refused

    def done(self) -> bool:
        return False

    def set_result(self, result: None) -> None:
        self._admitted()

    def set_exception(self, refusal: TooManyRequests) -> None:
        self._refused(refusal)


class Simulation:
    """`make` gives each router a policy of balancing, other than the world's."""

    def __init__(self, world: World, make: MakePolicy | None = None) -> None:
        self._world = world
        self._rng = random.Random(world.seed)
        self._events = Events()
        self._engines = Engines(world, self._events, self._leg_ended, self._leg_broken)
        make = make or partial(make_policy, world.balancing)
        self._routers = [
            Router(world, make(random.Random(number)), self._clock)
            for number in range(world.num_routers)
        ]
        self._record = Recorder(world)
        self._numbers = itertools.count()
        self._num_under_way = 0
        self._scaling: Scaling | None = None

    def run(self) -> Outcome:
        world, events = self._world, self._events
        for number, router in enumerate(self._routers):
            router.look(self._engines.replicas)
            first_s = world.scrape_s * number / world.num_routers
            events.at(first_s, partial(self._look, router, number == 0))
        events.at(0.0, self._conversation)
        if world.fault is not None:
            events.at(world.fault.at_s, partial(self._strike, world.fault))
        if world.autoscale is not None:
            self._scaling = Scaling(
                world.autoscale,
                world.startup_s,
                events,
                self._engines,
                lambda: sum(router.num_queued for router in self._routers),
                self._lost,
            )
            events.at(world.warm_up_s, self._scale)
        events.run()
        if self._scaling is not None:
            self._record.num_scalings = self._scaling.num_changes
        return self._record.outcome()

    def _clock(self) -> float:
        return self._events.now_s

    @property
    def _is_over(self) -> bool:
        return self._events.now_s > self._world.duration_s and not self._num_under_way

    # ---- clients ----

    def _conversation(self) -> None:
        """Poisson at the highest rate there will be, thinned to the present one."""
        traffic, now_s, rng = self._world.traffic, self._events.now_s, self._rng
        if rng.random() * traffic.most_per_s < traffic.per_s(now_s):
            self._ask(Conversation(traffic, next(self._numbers), self._world.seed))
        next_s = now_s + rng.expovariate(traffic.most_per_s)
        if next_s < self._world.duration_s:
            self._events.at(next_s, self._conversation)

    def _ask(self, conversation: Conversation) -> None:
        """The next turn, of any router."""
        now_s = self._events.now_s
        if now_s >= self._world.duration_s:
            return
        generation = conversation.turn(now_s)
        if generation is not None:
            generation.router = conversation.rng.randrange(len(self._routers))
            self._num_under_way += 1
            self._record.came(generation)
            self._try(generation)

    def _try(self, generation: Generation) -> None:
        router = self._routers[generation.router]
        gate, now_s = router.gate, self._events.now_s
        generation.num_tries += 1
        generation.came_s = now_s
        self._budget(router, generation)
        try:
            waiter = gate.arrive(0, generation.who, now_s)
        except TooManyRequests as refusal:
            self._refused(generation, refusal)
            return
        if waiter is None:
            self._run(generation)
            return
        turn = _Turn(partial(self._run, generation), partial(self._refused, generation))
        waiter.future = cast("asyncio.Future[None]", turn)
        self._events.at(waiter.deadline_s, partial(self._expire, router, waiter))

    def _budget(self, router: Router, generation: Generation) -> None:
        cap = router.brownout.cap(PRESET, 0)
        most = MAX_TOKENS if cap is None else cap(MAX_TOKENS)
        generation.is_capped = most < MAX_TOKENS
        generation.think_tokens = min(generation.natural_tokens, most)

    def _expire(self, router: Router, waiter: Waiter) -> None:
        if not waiter.admitted and waiter.refusal is None:
            router.gate.expire(self._events.now_s)

    def _refused(self, generation: Generation, refusal: TooManyRequests) -> None:
        """The client comes back as told."""
        now_s = self._events.now_s
        self._record.refused(generation, now_s)
        if generation.num_tries == self._world.max_tries:
            self._record.gave_up(generation)
            self._num_under_way -= 1
            return
        if not self._world.retries_come_home:
            generation.router = generation.conversation.rng.randrange(len(self._routers))
        assert refusal.retry_after_s is not None
        self._events.at(now_s + refusal.retry_after_s, partial(self._try, generation))

    # ---- one who has a slot ----

    def _run(self, generation: Generation) -> None:
        """The next leg, where the router chooses."""
        router = self._routers[generation.router]
        router.retries.request()
        while view := router.choose(generation.conversation.key, generation.failed):
            if view.replica.is_up:
                break
            router.lost(view.replica)
        else:
            self._fail(generation)
            return
        replica = view.replica
        cached_tokens = replica.cache.look_up(generation)
        if not generation.num_done:
            self._record.began(generation, cached_tokens)
        elif replica.url == generation.replica_url:
            cached_tokens = generation.context_tokens - UNSEEN_TOKENS
        generation.replica_url = replica.url
        view.began()
        self._engines.begin(replica, generation, cached_tokens)

    def _leg_ended(self, generation: Generation, replica: Replica) -> None:
        router = self._routers[generation.router]
        router.view(replica).ended()
        if generation.num_done < generation.output_tokens:
            self._run(generation)
            return
        if not generation.is_capped:
            router.brownout.thought(PRESET, generation.natural_tokens)
        self._record.answered(generation, self._events.now_s)
        self._leave(generation)
        conversation = generation.conversation
        next_s = self._events.now_s + conversation.pause_s()
        self._events.at(next_s, partial(self._ask, conversation))

    def _leg_broken(self, generation: Generation, replica: Replica) -> None:
        """It goes on elsewhere with what it has so far, where the router may."""
        router = self._routers[generation.router]
        router.view(replica).ended()
        router.lost(replica)
        generation.failed.add(replica.url)
        tried_enough = generation.num_failovers >= MAX_FAILOVERS
        if tried_enough or not router.retries.take(self._events.now_s):
            self._fail(generation)
            return
        generation.num_failovers += 1
        self._run(generation)

    def _fail(self, generation: Generation) -> None:
        self._record.failed(generation)
        self._leave(generation)

    def _leave(self, generation: Generation) -> None:
        self._num_under_way -= 1
        self._routers[generation.router].gate.leave(self._events.now_s)

    # ---- over time ----

    def _look(self, router: Router, is_first: bool) -> None:
        engines, now_s = self._engines, self._events.now_s
        router.look(engines.replicas)
        if is_first:
            loads = [replica.engine.num_requests for replica in engines.ready]
            num_running = sum(it.num_running for it in self._routers)
            self._record.looked(loads, num_running, len(engines.replicas), now_s)
        if not self._is_over:
            self._events.at(now_s + self._world.scrape_s, partial(self._look, router, is_first))

    def _strike(self, fault: Fault) -> None:
        ready = self._engines.ready
        rng = random.Random(self._world.seed)  # of its own: who comes stays the same
        self._engines.die(rng.sample(ready, round(fault.share * len(ready))))

    def _lost(self, replica: Replica) -> None:
        for router in self._routers:
            router.lost(replica)

    def _scale(self) -> None:
        assert self._scaling is not None
        again_s = self._scaling.look()
        if again_s < self._world.duration_s:
            self._events.at(again_s, self._scale)
