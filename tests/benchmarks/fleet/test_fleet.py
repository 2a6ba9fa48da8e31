"""The simulated fleet: that it is the router's own policies which are run, that nothing gets lost,
and that it can be had again."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.fleet.__main__ as program
from benchmarks.fleet.experiments import (
    CHATS,
    NUM_SEATS,
    QUESTIONS,
    Scale,
    base_world,
    capacity_per_s,
    day,
)
from benchmarks.fleet.outcome import Outcome
from benchmarks.fleet.replica import PrefixCache, Replica, State
from benchmarks.fleet.router import Router
from benchmarks.fleet.simulation import Simulation
from benchmarks.fleet.traffic import Conversation, Generation
from benchmarks.fleet.world import Fault, World, at
from serve import balancing, waiting
from serve.balancing import LeastLoaded, RoundRobin
from serve.settings import AutoscaleSettings, BrownoutSettings

NUM_REPLICAS = 4
CAPACITY_PER_S = NUM_REPLICAS * capacity_per_s(base_world(QUESTIONS, 1), 500)


def world(load: float, num_replicas: int = NUM_REPLICAS) -> World:
    """Single questions, `load` times what four replicas can do."""
    base = base_world(replace(QUESTIONS, conversations_per_s=load * CAPACITY_PER_S), num_replicas)
    return replace(base, num_routers=2, duration_s=200, warm_up_s=0)


def chats() -> World:
    base = base_world(replace(CHATS, conversations_per_s=0.3 * NUM_REPLICAS), NUM_REPLICAS)
    return replace(base, num_routers=2, share_slow=0.25, duration_s=150, warm_up_s=0)


SCALED = replace(
    world(0.8, 2),
    num_routers=1,
    max_in_flight_per_replica=NUM_SEATS,
    startup_s=20,
    drain_s=20,
    autoscale=AutoscaleSettings(
        max_replicas=8, min_replicas=1, target_requests_per_replica=24, scale_down_delay_s=20
    ),
)
WORLDS = {
    "calm": world(0.5),
    "overload": world(2),
    "overload, browned out": replace(world(2), brownout=BrownoutSettings(enabled=True)),
    "replicas die": replace(world(0.7), fault=Fault(100, 0.5), restart_s=30),
    "all die": replace(world(0.7), fault=Fault(100, 1.0), restart_s=30),
    "autoscaled": SCALED,
    "chats": chats(),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {name: Simulation(it).run() for name, it in WORLDS.items()}


def test_whoever_came_was_answered_or_gave_up_or_lost_a_stream(
    outcomes: dict[str, Outcome],
) -> None:
    """Nobody is left when it is over, whatever happened meanwhile."""
    for name, it in outcomes.items():
        assert it.num_came > 50, name
        assert it.num_came == it.num_answered + it.num_gave_up + it.num_failed, name
        assert it.num_good <= it.num_answered, name


@pytest.mark.parametrize("name", ["overload, browned out", "replicas die", "autoscaled", "chats"])
def test_the_same_world_does_the_same_again(name: str, outcomes: dict[str, Outcome]) -> None:
    again = Simulation(WORLDS[name]).run()
    assert repr(again) == repr(outcomes[name]), "by repr: NaN is equal to nothing"


def test_another_seed_is_another_day(outcomes: dict[str, Outcome]) -> None:
    assert Simulation(replace(WORLDS["calm"], seed=2)).run() != outcomes["calm"]


def test_a_fleet_with_room_refuses_nobody(outcomes: dict[str, Outcome]) -> None:
    calm = outcomes["calm"]
    assert calm.num_refusals == calm.num_gave_up == calm.num_failed == 0
    assert calm.num_good == calm.num_came
    assert calm.thinking_kept == 1


def test_capacity_is_what_a_full_fleet_ends(outcomes: dict[str, Outcome]) -> None:
    """Twice of it is offered; the last half of the time counts, when every seat is taken."""
    per_s = outcomes["overload"].series.answered_per_s
    full = per_s[len(per_s) // 2 :]
    assert sum(full) / len(full) == pytest.approx(CAPACITY_PER_S, rel=0.1)


def test_brownout_answers_those_who_would_be_refused(outcomes: dict[str, Outcome]) -> None:
    without, browned = outcomes["overload"], outcomes["overload, browned out"]
    assert without.num_refused_at_first > 0.3 * without.num_came
    assert browned.num_refused_at_first < 0.3 * without.num_refused_at_first
    assert browned.num_good > 1.3 * without.num_good
    assert browned.thinking_kept < 0.8


def test_what_ran_on_the_dead_ends_elsewhere(outcomes: dict[str, Outcome]) -> None:
    it = outcomes["replicas die"]
    assert it.num_moved > 20
    assert it.num_failed == 0
    assert it.num_answered == it.num_came


def test_with_no_replica_left_streams_break(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["all die"].num_failed > 50


def test_a_router_moves_no_more_streams_at_once_than_its_budget_of_retries_has() -> None:
    """`serve.retries`: a reserve of 256, and a fifth for each leg that begins."""
    one = replace(world(5, 24), num_routers=1, fault=Fault(150, 0.75))
    outcome = Simulation(one).run()
    assert outcome.num_failed > 0
    assert outcome.num_moved == pytest.approx(256 / 0.8, abs=10)
    assert Simulation(replace(one, num_routers=4)).run().num_failed == 0


def test_the_fleet_grows_under_load_and_shrinks_after_it(outcomes: dict[str, Outcome]) -> None:
    grown = outcomes["autoscaled"]
    assert max(grown.series.num_replicas) > 3
    falling = replace(SCALED.traffic, rate=((100.0, 1.0), (101.0, 0.1)))
    shrunk = Simulation(replace(SCALED, num_replicas=4, traffic=falling, duration_s=300)).run()
    assert shrunk.series.num_replicas[-1] < 3
    assert shrunk.num_failed == 0, "who leaves ends what it runs, or it goes on elsewhere"


def test_affinity_finds_more_prefixes_than_load_alone(outcomes: dict[str, Outcome]) -> None:
    by_load = Simulation(replace(chats(), balancing="least_loaded")).run()
    assert outcomes["chats"].prefix_hits > 1.3 * by_load.prefix_hits


def test_the_policies_are_those_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request asks the router's own classes, none of them a copy."""
    calls: Counter[str] = Counter()

    def counted(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def call(self: object, *args: object) -> object:
            calls[f"{kind.__name__}.{name}"] += 1
            return original(self, *args)

        monkeypatch.setattr(kind, name, call)

    counted(balancing.PrefixAffinity, "choose")
    counted(waiting.Policy, "arrive")
    counted(waiting.Policy, "leave")
    outcome = Simulation(WORLDS["calm"]).run()
    assert set(calls.values()) == {outcome.num_came}
    assert len(calls) == 3


# --- the parts


def first_turn(number: int = 0) -> Generation:
    turn = Conversation(CHATS, number, seed=1).turn(0.0)
    assert turn is not None
    return turn


def test_what_a_conversation_asks_follows_from_its_number() -> None:
    one, same, other = (Conversation(CHATS, number, seed=1).turn(3.0) for number in (5, 5, 6))
    asked = [(it.prompt_tokens, it.natural_tokens, it.answer_tokens) for it in (one, same, other)]
    assert asked[0] == asked[1] != asked[2]


def test_a_broken_leg_goes_on_with_what_came() -> None:
    turn = first_turn()
    leg = turn.leg(1.0, cached_tokens=0)
    assert (leg.think_tokens, leg.answer_tokens) == (turn.natural_tokens, turn.answer_tokens)
    turn.took(leg, turn.natural_tokens + 3)
    rest = turn.leg(2.0, cached_tokens=0)
    assert rest.prompt_tokens == turn.prompt_tokens + turn.natural_tokens + 3
    assert (rest.think_tokens, rest.answer_tokens) == (0, turn.answer_tokens - 3)


def test_a_trace_that_is_cut_takes_a_second_leg_for_the_answer() -> None:
    turn = first_turn()
    turn.think_tokens = turn.natural_tokens // 2
    leg = turn.leg(1.0, cached_tokens=0)
    assert (leg.think_tokens, leg.answer_tokens) == (turn.think_tokens, 0)
    turn.took(leg, leg.output_tokens)
    answer = turn.leg(2.0, cached_tokens=0)
    assert (answer.think_tokens, answer.answer_tokens) == (0, turn.answer_tokens)


def test_a_prefix_is_found_until_others_took_its_place() -> None:
    cache, turn = PrefixCache(most_tokens=40_000), first_turn()
    cold = cache.look_up(turn)
    assert cold == 0
    assert cache.look_up(turn) == turn.prompt_tokens
    for number in range(1, 60):
        cache.look_up(first_turn(number))
    assert cache.look_up(turn) < turn.prompt_tokens


def test_a_router_knows_its_own_requests_at_once_and_others_when_it_looks() -> None:
    it = world(0.5)
    replicas = [Replica(0, it)]
    one, other = (Router(it, RoundRobin(), lambda: 0.0) for _ in range(2))
    for router in (one, other):
        router.look(replicas)
    view = one.view(replicas[0])
    view.began()
    replicas[0].engine.submit(first_turn().leg(0.0, 0), 0.0)
    assert (view.load, other.view(replicas[0]).load) == (1, 0)
    other.look(replicas)
    assert other.view(replicas[0]).load == 1


def test_a_replica_that_is_down_is_not_chosen() -> None:
    it = world(0.5)
    replicas = [Replica(index, it) for index in range(2)]
    router = Router(it, LeastLoaded(random.Random(1)), lambda: 0.0)
    replicas[0].state = State.DEAD
    router.look(replicas)
    chosen = {router.choose(bytes([key]), set()) for key in range(20)}
    assert {view.replica for view in chosen if view} == {replicas[1]}
    router.lost(replicas[1])
    assert router.choose(b"key", set()) is None


def test_a_day_has_a_night_and_a_peak() -> None:
    curve = day(2400.0)
    assert at(curve, 300.0) == pytest.approx(0.2)
    assert at(curve, 1500.0) == pytest.approx(0.8)
    assert at(((10.0, 1.0), (20.0, 3.0)), 15.0) == 2.0
    assert at(((10.0, 1.0), (20.0, 3.0)), 99.0) == 3.0


# --- the program


def test_the_program_keeps_figures_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One experiment at a time adds to what is kept."""
    pytest.importorskip("matplotlib")
    tiny = Scale((2, 3), (1, 8), num_replicas=3, num_day_replicas=3, day_s=600)
    monkeypatch.setattr(program, "QUICK", tiny)
    out = tmp_path / "fleet.json"
    common = ["--quick", "--jobs", "1", "--out", str(out)]
    program.main([*common, "--only", "balancing,faults"])
    program.main([*common, "--only", "autoscaling,brownout", "--plots", str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()[-1]
    kept = json.loads(out.read_text())
    names = {"balancing", "brownout", "autoscaling", "faults"}
    assert set(kept["experiments"]) == set(json.loads(printed)["experiments"]) == names
    assert {path.name for path in tmp_path.glob("*.png")} == {f"fleet-{it}.png" for it in names}
    with pytest.raises(SystemExit):
        program.main([*common, "--only", "nothing"])
