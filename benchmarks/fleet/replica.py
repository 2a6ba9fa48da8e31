"""One replica: an engine (`benchmarks.planner.engine_sim`), its prefix cache, and its life."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict

from benchmarks.fleet.traffic import Generation
from benchmarks.fleet.world import World
from benchmarks.planner.engine_sim import Engine, Request
from serve.load import EngineLoad


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """It ends when what it runs has ended."""
    DEAD = "dead"


class PrefixCache:
    """LRU over tokens, an entry per conversation and per application. It knows nothing of the
    engine's KV: what runs is taken to have its own."""

    def __init__(self, most_tokens: int) -> None:
        self._most = most_tokens
        self._tokens = 0
        self._entries: OrderedDict[int, int] = OrderedDict()

    def look_up(self, generation: Generation) -> int:
        """Tokens of its prompt that are cached; the whole of it is from now on."""
        conversation = generation.conversation
        found = max(
            self._entry(~conversation.application, conversation.system_tokens),
            self._entry(conversation.number, generation.prompt_tokens),
        )
        while self._tokens > self._most:
            self._tokens -= self._entries.popitem(last=False)[1]
        return found

    def _entry(self, key: int, tokens: int) -> int:
        found = self._entries.pop(key, 0)
        self._entries[key] = tokens
        self._tokens += tokens - found
        return found


class Replica:
    def __init__(self, index: int, world: World, state: State = State.READY) -> None:
        self.index = index
        self.url = f"http://engine-{index}:8000"
        self.state = state
        self._world = world
        self.clear()

    wake_s: float
    """When something next happens on its engine."""

    def clear(self) -> None:
        """A new engine, which runs nothing and has nothing cached."""
        world = self._world
        is_slow = self.index < world.share_slow * world.num_replicas
        self.engine = Engine(
            world.step_times, world.limits, slowness=world.slowness if is_slow else 1.0
        )
        self.cache = PrefixCache(world.cache_tokens)
        self.wake_s = math.inf
        self.generations: dict[Request, Generation] = {}

    @property
    def is_up(self) -> bool:
        return self.state in (State.READY, State.LEAVING)

    @property
    def load(self) -> EngineLoad:
        engine = self.engine
        return EngineLoad(engine.num_running, engine.num_waiting, engine.kv_usage, ())
