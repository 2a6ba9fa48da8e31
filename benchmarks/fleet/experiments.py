"""What is compared: four experiments, each a few worlds by name.

Every replica is an L4 by its data sheet (`benchmarks.planner`), with 32 seats, so that a token
takes no longer than 25 ms; 5 % of them at half the pace where balancing is compared.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from math import cos, pi
from typing import get_args

from benchmarks.fleet.outcome import Outcome
from benchmarks.fleet.simulation import MakePolicy, Simulation
from benchmarks.fleet.traffic import Conversation
from benchmarks.fleet.world import Curve, Fault, Lengths, Traffic, World
from benchmarks.planner.capacity import limits_of
from benchmarks.planner.engine_sim import Engine
from benchmarks.planner.hardware import find_gpu
from benchmarks.planner.model_shape import R1_DISTILL_QWEN_1_5B
from benchmarks.planner.step_times import roofline
from serve.balancing import Balancing
from serve.settings import AutoscaleSettings, BrownoutSettings

Worlds = dict[str, World]
NUM_SEATS = 32
POLICIES: tuple[Balancing, ...] = get_args(Balancing)


@dataclass(frozen=True, slots=True)
class Scale:
    sizes: tuple[int, ...] = (10, 100, 1000)
    routers: tuple[int, ...] = (1, 8, 32)
    num_replicas: int = 1000
    num_day_replicas: int = 100
    day_s: float = 4 * 3600.0


QUICK = Scale(sizes=(4, 16, 64), num_replicas=64, num_day_replicas=16, day_s=3600.0)
CHATS = Traffic(1.0, mean_turns=3, pause_s=10, share_with_document=0.3, thinking=Lengths(500, 0.8))
QUESTIONS = Traffic(1.0)
CHATS_PER_S = 0.36
"""Conversations for each replica: they take about two thirds of the seats."""


def base_world(traffic: Traffic, num_replicas: int, num_seats: int = NUM_SEATS) -> World:
    gpu = find_gpu("L4")
    assert gpu is not None
    return World(
        traffic,
        roofline(gpu, R1_DISTILL_QWEN_1_5B),
        limits_of(gpu, R1_DISTILL_QWEN_1_5B, max_num_seqs=num_seats),
        num_replicas,
    )


def capacity_per_s(world: World, num_requests: int = 2000) -> float:
    """Single questions that one replica ends, with every seat taken all the time."""
    engine = Engine(world.step_times, world.limits)
    numbers = iter(range(num_requests))
    num_ended, now_s = 0, 0.0

    def ask() -> None:
        turn = Conversation(world.traffic, next(numbers), world.seed).turn(now_s)
        if turn is not None:
            engine.submit(turn.leg(now_s, 0), now_s)

    for _ in range(world.limits.max_num_seqs):
        ask()
    while num_ended < num_requests - world.limits.max_num_seqs:
        now_s = engine.next_event_s() or now_s
        for _ in engine.advance(now_s):
            num_ended += 1
            ask()
    return num_ended / now_s


# ---- the experiments ----


def balancing(scale: Scale) -> Worlds:
    """Policies over fleets of each size behind 8 routers, and over numbers of routers."""
    sizes = [(num, 8) for num in scale.sizes]
    more = [(scale.num_replicas, num) for num in scale.routers if num != 8]
    worlds = {
        run_name(num, routers, policy): replace(
            base_world(replace(CHATS, conversations_per_s=CHATS_PER_S * num), num),
            num_routers=routers,
            balancing=policy,
            share_slow=0.05,
            duration_s=240,
            warm_up_s=120,
        )
        for num, routers in [*sizes, *more]
        for policy in POLICIES
        if routers == 8 or policy != "round_robin"
    }
    affinity = worlds[run_name(scale.num_replicas, 8, "prefix_affinity")]
    limited = replace(affinity, max_in_flight_per_replica=NUM_SEATS // 8)
    return {**worlds, run_name(scale.num_replicas, 8, "prefix_affinity, limited"): limited}


def run_name(num_replicas: int, num_routers: int, policy: str) -> str:
    return f"{num_replicas} replicas, {num_routers} routers, {policy}"


BURST_S = (150.0, 330.0)
FAULT_S = 240.0


def brownout(scale: Scale) -> Worlds:
    """A burst of 1.5 times what the fleet can do, from 0.7 times."""
    begin_s, end_s = BURST_S
    rate: Curve = ((begin_s, 0.7), (begin_s, 1.5), (end_s, 1.5), (end_s, 0.7))
    base = _questions(scale.num_replicas, rate, duration_s=600)
    on = BrownoutSettings(enabled=True, recovery_s=120)
    return {
        "without brownout": base,
        "with brownout": replace(base, brownout=on),
        "without, retries anywhere": replace(base, retries_come_home=False),
    }


def autoscaling(scale: Scale) -> Worlds:
    """A day, compressed, with two bursts. The fixed fleet has a fifth to spare at the peak; scaling
    begins after the warm-up, since an idle fleet would be made small at once."""
    num, day_s = scale.num_day_replicas, scale.day_s
    fixed = replace(
        _questions(num, day(day_s), duration_s=day_s),
        num_routers=1,
        max_in_flight_per_replica=NUM_SEATS,
        bucket_s=day_s / 120,
    )
    settings = AutoscaleSettings(
        max_replicas=2 * num, min_replicas=2, target_requests_per_replica=0.75 * NUM_SEATS
    )
    first = replace(fixed, num_replicas=max(2, round(num * 0.35)), autoscale=settings)
    return {
        "fixed": fixed,
        "autoscaled, engines start in 90 s": first,
        "autoscaled, engines start in 300 s": replace(first, startup_s=300),
    }


def faults(scale: Scale) -> Worlds:
    """One replica in twenty dies, at 80 % load."""
    base = replace(
        _questions(scale.num_replicas, ((0.0, 0.8),), duration_s=420), fault=Fault(FAULT_S, 0.05)
    )
    return {
        "8 routers": base,
        "1 router": replace(base, num_routers=1),
        "nothing dies": replace(base, fault=None),
    }


EXPERIMENTS = {
    "balancing": balancing,
    "brownout": brownout,
    "autoscaling": autoscaling,
    "faults": faults,
}


def _questions(num_replicas: int, rate: Curve, duration_s: float) -> World:
    """`rate` in multiples of the fleet's capacity."""
    world = base_world(QUESTIONS, num_replicas)
    per_s = capacity_per_s(world) * num_replicas
    return replace(
        world,
        traffic=replace(QUESTIONS, conversations_per_s=per_s, rate=rate),
        duration_s=duration_s,
        warm_up_s=min(120.0, duration_s / 4),
    )


def day(day_s: float) -> Curve:
    """From a quarter of the peak at night to it in the afternoon (80 % of a fixed fleet), with two
    bursts of a third more for a fortieth of the day."""
    knots = []
    for index in range(241):
        hour = index / 10
        factor = 0.5 - 0.3 * cos(2 * pi * (hour - 3) / 24)
        if 9 <= hour < 9.6 or 19 <= hour < 19.6:
            factor *= 4 / 3
        knots.append((day_s * hour / 24, factor))
    return tuple(knots)


# ---- running ----


def timed(world: World, make: MakePolicy | None = None) -> tuple[Outcome, float]:
    """What happens, and how long it took to find out, in seconds. Without the collector
    of cycles, of which there are none here, it takes a third less."""
    began_s = time.perf_counter()
    gc.disable()
    try:
        return Simulation(world, make).run(), time.perf_counter() - began_s
    finally:
        gc.enable()


Timed = tuple[str, Outcome, float]
"""A world's name, what happened there, and how many seconds it took to find out."""


def run_all(worlds: Mapping[str, World], jobs: int) -> Iterator[Timed]:
    """Each as soon as it is known; side by side in `jobs` processes, or in this one."""
    return _in_this_one(worlds) if jobs == 1 else _in_processes(worlds, jobs)


def _in_this_one(worlds: Mapping[str, World]) -> Iterator[Timed]:
    for name, world in worlds.items():
        yield name, *timed(world)


def _in_processes(worlds: Mapping[str, World], jobs: int) -> Iterator[Timed]:
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(timed, world): name for name, world in worlds.items()}
        for future in as_completed(futures):
            yield futures[future], *future.result()
