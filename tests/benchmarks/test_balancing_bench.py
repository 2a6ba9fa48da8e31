"""The comparison of policies: that it is fair, repeatable, and runs."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.balancing import POLICIES, measure, simulate
from benchmarks.balancing_sim import Simulation, World

SMALL = World(
    num_replicas=8, num_slow=1, num_routers=2, conversations_per_s=4, duration_s=60, warm_up_s=20
)


def test_the_simulation_gives_the_same_again() -> None:
    make = POLICIES["prefix_affinity"]
    assert Simulation(SMALL, make).run() == Simulation(SMALL, make).run()


def test_affinity_finds_more_prefixes_than_load_alone() -> None:
    """With several turns; with one turn each there is nothing to find."""
    outcomes = simulate({"chats": SMALL, "single": replace(SMALL, mean_turns=1)}, POLICIES)
    chats, single = outcomes["chats"], outcomes["single"]
    assert chats["prefix_affinity"].hits > 1.3 * chats["least_loaded"].hits
    assert abs(single["prefix_affinity"].hits - single["least_loaded"].hits) < 0.1
    assert all(it.num_turns > 100 for it in chats.values())


async def test_the_real_set_is_measured() -> None:
    figures = await measure("prefix_affinity", 1.0, num_clients=4)
    assert figures["turns"] >= 12
    assert figures["home"] > 0.8
