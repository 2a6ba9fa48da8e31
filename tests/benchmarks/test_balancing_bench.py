"""The comparison of policies: that it is fair, repeatable, and runs."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.balancing import CHATS, POLICIES, measure, simulate, world

SMALL = replace(
    world(replace(CHATS, conversations_per_s=3)),
    num_replicas=8,
    num_routers=2,
    share_slow=0.125,
    duration_s=60,
    warm_up_s=20,
)


def test_every_policy_sees_the_same_conversations() -> None:
    """And the simulation gives the same again."""
    single = replace(SMALL, traffic=replace(SMALL.traffic, mean_turns=1))
    outcomes = simulate({"single": single}, POLICIES)["single"]
    assert len({it.num_came for it in outcomes.values()}) == 1
    assert repr(simulate({"single": single}, POLICIES)["single"]) == repr(outcomes)


def test_the_routers_hold_nobody_back() -> None:
    """So that the policies alone are compared, also beyond what the engines can do."""
    much = replace(SMALL, traffic=replace(SMALL.traffic, conversations_per_s=60, mean_turns=1))
    outcome = simulate({"much": much}, {"prefix_affinity": POLICIES["prefix_affinity"]})
    assert outcome["much"]["prefix_affinity"].busy > 1.2
    assert outcome["much"]["prefix_affinity"].num_refusals == 0


async def test_the_real_set_is_measured() -> None:
    figures = await measure("prefix_affinity", 1.0, num_clients=4)
    assert figures["turns"] >= 12
    assert figures["home"] > 0.8
