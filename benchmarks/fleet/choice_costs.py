"""What a router pays for a choice among so many replicas, in microseconds of this machine."""

from __future__ import annotations

import itertools
import random
import timeit
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import get_args

from serve.balancing import Balancing, make_policy
from serve.load import EngineLoad, engine_pressure


@dataclass(slots=True)
class Candidate:
    url: str
    load: int


def choice_costs(sizes: Iterable[int]) -> dict[str, dict[int, float]]:
    """By policy and number of replicas; and for the engines' part of the pressure, which a router
    with a brownout looks at for every request."""
    costs: dict[str, dict[int, float]] = {}
    for num in sizes:
        for name in get_args(Balancing):
            costs.setdefault(name, {})[num] = _choice_us(name, num)
        costs.setdefault("engine_pressure", {})[num] = _pressure_us(num)
    return costs


def _choice_us(name: Balancing, num: int) -> float:
    policy = make_policy(name, random.Random(1))
    candidates = [Candidate(f"http://engine-{i}:8000", 25) for i in range(num)]
    keys = itertools.count()
    return _us(lambda: policy.choose(candidates, next(keys).to_bytes(8, "big")), num)


def _pressure_us(num: int) -> float:
    loads = [EngineLoad(24, 1, 0.3, ())] * num
    return _us(lambda: engine_pressure(loads), num)


def _us(act: Callable[[], object], num: int) -> float:
    times = max(10, 20_000 // num)
    return 1e6 * min(timeit.repeat(act, number=times, repeat=5)) / times
