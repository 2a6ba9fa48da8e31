"""A simulation of many replicas behind several routers, to compare policies. Deterministic.

It runs the very classes of `serve/balancing.py` on what a router really knows: its own requests,
and the load that it read from each engine up to `scrape_s` ago.

- A replica has `num_slots` sequences; others wait in line. A prompt is read one at a time at
  `prefill_tokens_per_s`, its cached prefix for nothing; then tokens come at a pace that falls with
  the number of sequences at that moment. Some replicas are slower at everything.
- Its prefix cache is LRU over `cache_tokens`, an entry per conversation and per application.
- A conversation begins with its application's system text, in some with a document, and has several
  turns. Thinking isn't part of the next prompt (R1's template drops it), so what a turn finds
  cached is at most the prompt of the turn before.
- Each turn reaches any router, as behind a load balancer.

TTFT here: arrival → end of the prefill. Hits: cached prompt tokens / prompt tokens. Both count what
arrives after `warm_up_s`.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.stats import percentile
from serve.balancing import Policy


@dataclass(frozen=True, slots=True)
class World:
    """The defaults: about a 24 GB GPU per replica with the 1.5B."""

    num_replicas: int = 100
    num_routers: int = 8
    num_slots: int = 64
    prefill_tokens_per_s: float = 12_000
    step_s: float = 0.012
    step_per_sequence_s: float = 0.0002
    cache_tokens: int = 400_000
    num_slow: int = 5
    slowness: float = 2.0
    scrape_s: float = 2.0
    conversations_per_s: float = 50
    num_applications: int = 30
    mean_turns: float = 5
    pause_s: float = 20
    share_with_document: float = 0.3
    share_with_one_opening: float = 0.0
    """Conversations with the same long opening (votes, a few-shot benchmark): one affinity key."""
    duration_s: float = 240
    warm_up_s: float = 90
    seed: int = 1


@dataclass(slots=True)
class Conversation:
    number: int
    application: int
    system_tokens: int
    prompt_tokens: int
    turns_left: int
    key: bytes


@dataclass(slots=True)
class Turn:
    conversation: Conversation
    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    view: View


@dataclass(slots=True)
class View:
    """A replica as one router knows it: a candidate."""

    url: str
    own: int = 0
    others: int = 0

    @property
    def load(self) -> int:
        return self.own + self.others


@dataclass(slots=True)
class Engine:
    slowness: float
    cache_tokens: int
    num_running: int = 0
    waiting: deque[Turn] = field(default_factory=deque)
    prefill_free_at_s: float = 0.0
    cached: OrderedDict[tuple[str, int], int] = field(default_factory=OrderedDict)
    cached_tokens: int = 0

    def look_up(self, conversation: Conversation) -> int:
        """Tokens of the conversation's prompt that are cached."""
        found = 0
        for key in (("app", conversation.application), ("chat", conversation.number)):
            if key in self.cached:
                self.cached.move_to_end(key)
                found = max(found, self.cached[key])
        return found

    def remember(self, conversation: Conversation, prompt_tokens: int) -> None:
        self._store(("app", conversation.application), conversation.system_tokens)
        self._store(("chat", conversation.number), prompt_tokens)
        while self.cached_tokens > self.cache_tokens:
            self.cached_tokens -= self.cached.popitem(last=False)[1]

    def _store(self, key: tuple[str, int], tokens: int) -> None:
        self.cached_tokens += tokens - self.cached.pop(key, 0)
        self.cached[key] = tokens


@dataclass(frozen=True, slots=True)
class Outcome:
    ttft_p50_ms: float
    ttft_p99_ms: float
    hits: float
    spread: float
    """Requests on the busiest replica over the mean, averaged over looks."""
    num_turns: int


class Simulation:
    """`make` gives each router its own policy."""

    def __init__(self, world: World, make: Callable[[random.Random], Policy]) -> None:
        self._world = world
        self._rng = random.Random(world.seed)
        self._policies = [make(random.Random(i)) for i in range(world.num_routers)]
        self._engines = [
            Engine(world.slowness if i < world.num_slow else 1.0, world.cache_tokens)
            for i in range(world.num_replicas)
        ]
        self._views = [
            [View(f"http://engine-{i}:8000") for i in range(world.num_replicas)]
            for _ in range(world.num_routers)
        ]
        self._systems = [self._rng.randint(100, 1500) for _ in range(world.num_applications)]
        self._systems.append(4000)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._ttft_s: list[float] = []
        self._prompt_tokens = self._hit_tokens = 0
        self._spreads: list[float] = []

    def run(self) -> Outcome:
        world = self._world
        self._at(0.0, self._conversation)
        for router in range(world.num_routers):
            self._at(world.scrape_s * router / world.num_routers, self._scraper(router))
        while self._events and self._events[0][0] < world.duration_s:
            now_s, _, act = heapq.heappop(self._events)
            act(now_s)
        return Outcome(
            ttft_p50_ms=1000 * percentile(self._ttft_s, 50),
            ttft_p99_ms=1000 * percentile(self._ttft_s, 99),
            hits=self._hit_tokens / max(1, self._prompt_tokens),
            spread=sum(self._spreads) / max(1, len(self._spreads)),
            num_turns=len(self._ttft_s),
        )

    def _at(self, when_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), act))

    # ---- arrivals ----

    def _conversation(self, now_s: float) -> None:
        rng, world = self._rng, self._world
        alike = rng.random() < world.share_with_one_opening
        application = world.num_applications if alike else rng.randrange(world.num_applications)
        has_document = not alike and rng.random() < world.share_with_document
        document = rng.randint(2000, 12_000) if has_document else 0
        number = next(self._numbers)
        conversation = Conversation(
            number=number,
            application=application,
            system_tokens=self._systems[application],
            prompt_tokens=self._systems[application] + document,
            turns_left=1 + int(rng.expovariate(1 / max(1e-9, world.mean_turns - 1))),
            key=b"alike" if alike else b"%d" % number,
        )
        self._at(now_s, lambda at_s: self._turn(conversation, at_s))
        self._at(now_s + rng.expovariate(world.conversations_per_s), self._conversation)

    def _turn(self, conversation: Conversation, now_s: float) -> None:
        rng = self._rng
        router = rng.randrange(self._world.num_routers)
        conversation.prompt_tokens += rng.randint(30, 300)
        output_tokens = min(8000, int(rng.lognormvariate(6.3, 0.8)))
        views = self._views[router]
        view = self._policies[router].choose(views, conversation.key)
        view.own += 1
        engine = self._engines[views.index(view)]
        turn = Turn(conversation, now_s, conversation.prompt_tokens, output_tokens, view)
        if engine.num_running < self._world.num_slots:
            self._start(engine, turn, now_s)
        else:
            engine.waiting.append(turn)

    # ---- one engine ----

    def _start(self, engine: Engine, turn: Turn, now_s: float) -> None:
        world = self._world
        engine.num_running += 1
        hit = engine.look_up(turn.conversation)
        engine.remember(turn.conversation, turn.prompt_tokens)
        prefill_s = engine.slowness * (turn.prompt_tokens - hit) / world.prefill_tokens_per_s
        first_s = max(now_s, engine.prefill_free_at_s) + prefill_s + engine.slowness * world.step_s
        engine.prefill_free_at_s = first_s
        if turn.arrived_s >= world.warm_up_s:
            self._ttft_s.append(first_s - turn.arrived_s)
            self._prompt_tokens += turn.prompt_tokens
            self._hit_tokens += hit
        step_s = world.step_s + world.step_per_sequence_s * engine.num_running
        end_s = first_s + engine.slowness * step_s * turn.output_tokens
        self._at(end_s, lambda at_s: self._end(engine, turn, at_s))

    def _end(self, engine: Engine, turn: Turn, now_s: float) -> None:
        engine.num_running -= 1
        turn.view.own -= 1
        if engine.waiting:
            self._start(engine, engine.waiting.popleft(), now_s)
        conversation = turn.conversation
        conversation.turns_left -= 1
        if conversation.turns_left > 0:
            conversation.prompt_tokens += self._rng.randint(100, 400)  # the answer, less its trace
            pause_s = self._rng.expovariate(1 / self._world.pause_s)
            self._at(now_s + pause_s, lambda at_s: self._turn(conversation, at_s))

    # ---- what routers know ----

    def _scraper(self, router: int) -> Callable[[float], None]:
        def scrape(now_s: float) -> None:
            loads = [engine.num_running + len(engine.waiting) for engine in self._engines]
            for view, load in zip(self._views[router], loads, strict=True):
                view.others = max(0, load - view.own)
            if router == 0 and now_s >= self._world.warm_up_s:
                self._spreads.append(max(loads) * len(loads) / max(1, sum(loads)))
            self._at(now_s + self._world.scrape_s, scrape)

        return scrape
