"""Tests of the plan: a simulated demand, the number of replicas, what limits them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.planner.capacity import limits_of
from benchmarks.planner.demand import Demand, Latency, latency_of
from benchmarks.planner.engine_sim import Limits, Request, StepTimes
from benchmarks.planner.hardware import find_gpu
from benchmarks.planner.limit import Card, advice
from benchmarks.planner.model_shape import R1_DISTILL_QWEN_1_5B
from benchmarks.planner.plan import least_replicas, plan, render
from benchmarks.planner.simulate import EngineModel, Simulation
from benchmarks.planner.step_times import roofline
from benchmarks.slo import Slo

CARD = Card(find_gpu("L4"), R1_DISTILL_QWEN_1_5B, "auto")
MODEL = EngineModel(roofline(CARD.gpu, CARD.shape), limits_of(CARD.gpu, CARD.shape))
SMALL = EngineModel(StepTimes(((1, 0.01),)), Limits(8, 2048, 20_000))
"""Eight seats, a step of 10 ms whatever is in it: 800 tokens/s at most."""
CHAT = Demand(users=1, pause_s=1.0, prompt_tokens=50, think_tokens=60, answer_tokens=40)


# ---- demand ----


@given(st.integers(0, 1000), st.integers(1, 3000), st.integers(0, 3000), st.integers(16, 4096))
def test_a_request_fits_into_the_context(seed, prompt, think, context):
    demand = Demand(users=1, prompt_tokens=prompt, think_tokens=think, context=context)
    request = demand.request(0.0, Random(seed))
    assert request.prompt_tokens >= 1
    assert request.output_tokens >= 1
    assert request.prompt_tokens + request.output_tokens <= context


def test_lengths_have_the_mean_that_was_asked():
    demand, rng = Demand(users=1, think_tokens=2000, context=10**6), Random(1)
    tokens = [demand.request(0.0, rng).think_tokens for _ in range(20_000)]
    assert sum(tokens) / len(tokens) == pytest.approx(2000, rel=0.02)
    assert max(tokens) > 5 * min(tokens)


def test_latencies_count_from_the_arrival():
    request = Request(10.0, 5, 3, 2, 0, 0, 10.5, 11.0, 14.0, 15.0)
    assert latency_of(request) == Latency(ttft_s=1.0, ttfa_s=4.0, tpot_s=1.0, e2e_s=5.0)


def test_a_request_is_good_that_keeps_to_every_limit_that_is_set():
    seen = Latency(ttft_s=1.0, ttfa_s=None, tpot_s=0.1, e2e_s=9.0)
    assert Slo(ttft_ms=None, tpot_ms=None).kept_by(seen)
    assert Slo(1000.1, 100.1, None, 9000.1).kept_by(seen)
    assert not Slo(1000.1, 100.1, 500.1, 9000.1).kept_by(seen)  # it never came to an answer
    assert not Slo(ttft_ms=900, tpot_ms=None).kept_by(seen)
    assert not Slo(None, None, e2e_ms=8900).kept_by(seen)


# ---- simulation ----


def test_users_who_never_pause_keep_every_seat_busy():
    demand = replace(CHAT, users=20, pause_s=0.0)
    outcome = Simulation(SMALL, 1, demand).run()
    use = outcome.use
    assert use.mean(use.running) == pytest.approx(8, rel=0.01)
    assert use.mean(use.output_tokens) == pytest.approx(800, rel=0.02)
    assert use.short_of_seats > 0.9 * use.replica_s
    assert not outcome.overloaded  # users wait; the line does not grow


def test_arrivals_beyond_what_is_done_are_an_overload():
    assert Simulation(SMALL, 1, replace(CHAT, users=None, rate=12.0)).run().overloaded
    outcome = Simulation(SMALL, 1, replace(CHAT, users=None, rate=4.0)).run()
    assert not outcome.overloaded
    assert outcome.use.mean(outcome.use.num_ended) == pytest.approx(4.0, rel=0.1)


def test_what_is_outside_of_the_engine_is_in_every_latency():
    demand = replace(CHAT, users=1)
    within = Simulation(SMALL, 1, demand).run()
    beyond = Simulation(replace(SMALL, outside_s=0.5), 1, demand).run()
    for field in ("ttft_s", "e2e_s"):
        more_s = beyond.percentile_s(field, 50) - within.percentile_s(field, 50)
        assert more_s == pytest.approx(0.5, abs=0.02)


def test_requests_go_to_the_least_loaded():
    demand = replace(CHAT, users=16, pause_s=0.0)
    outcome = Simulation(SMALL, 2, demand).run()
    assert outcome.use.mean(outcome.use.running) == pytest.approx(8, rel=0.02)
    assert outcome.percentile_s("ttft_s", 99) < 0.1


def test_the_same_seed_is_the_same_run():
    runs = [Simulation(SMALL, 2, replace(CHAT, users=9), seed=4).run() for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", ["users", "rate"])
def test_more_load_never_makes_more_requests_good(kind: str):
    slo = Slo(300, None, e2e_ms=2000)
    demand = replace(CHAT, **({"users": 1} if kind == "users" else {"users": None, "rate": 1.0}))
    loads = (1, 4, 8, 12, 20, 40) if kind == "users" else (1, 3, 6, 8, 10, 20)
    shares = [Simulation(SMALL, 1, demand.with_load(load)).run().good_share(slo) for load in loads]
    assert shares[0] > 0.9
    assert shares[-1] < 0.5
    # Up to what the draw of lengths makes of it.
    assert all(more <= less + 0.02 for less, more in itertools.pairwise(shares))


# ---- the plan ----


@given(st.integers(1, 500))
def test_the_least_number_that_suffices_is_found(needed: int):
    asked = []

    def suffices(num: int) -> bool:
        asked.append(num)
        return num >= needed

    assert least_replicas(suffices) == needed
    assert len(asked) <= 20


def test_no_number_suffices_where_none_does():
    assert least_replicas(lambda num: False) is None


def test_twice_the_users_take_about_twice_the_replicas():
    slo = Slo(300, None)
    made = plan(SMALL, CARD, replace(CHAT, users=20), slo)
    twice = plan(SMALL, CARD, replace(CHAT, users=100), slo)
    assert twice.num_replicas == pytest.approx(100 / made.carried_by_one, abs=1.01)
    assert made.num_replicas == math.ceil(20 / made.carried_by_one)
    assert made.limit == "max_num_seqs"
    assert made.forecast.good_share >= 0.95


def test_a_plan_for_a_card_says_what_users_see_and_what_binds():
    demand = Demand(users=200)
    made = plan(MODEL, CARD, demand, Slo())
    assert made.num_replicas == 1
    assert 200 < made.carried_by_one < 400
    assert made.limit == "memory bandwidth (KV)"
    assert "fp8" in made.advice
    text = render(made, CARD, demand)
    assert "200 users of DeepSeek-R1-Distill-Qwen-1.5B on L4: 1 replica." in text
    assert "not measured" in text


def test_limits_that_a_request_alone_misses_are_met_by_no_number():
    made = plan(MODEL, CARD, Demand(rate=5.0), Slo(None, 10))
    assert made.num_replicas is None
    assert made.limit == "memory bandwidth (weights)"
    assert "faster card" in made.advice
    assert "no number of replicas" in render(made, CARD, Demand(rate=5.0))


def test_kv_that_runs_short_is_what_binds():
    short = replace(SMALL, limits=Limits(64, 2048, 2000))
    made = plan(short, CARD, replace(CHAT, users=10, context=400), Slo(300, None))
    assert made.limit == "KV memory"


def test_long_prompts_bind_by_what_reading_them_takes():
    demand = replace(CHAT, users=4, prompt_tokens=2000, think_tokens=0, answer_tokens=10)
    slow = EngineModel(StepTimes(((1, 0.001),), prefill_token_s=1e-4), Limits(64, 2048, 200_000))
    assert plan(slow, CARD, demand, Slo(1000, None)).limit == "compute of prefill"


def test_every_limit_has_advice_for_every_card():
    for limit in (
        "KV memory",
        "max_num_seqs",
        "memory bandwidth (weights)",
        "memory bandwidth (KV)",
        "compute of prefill",
        "compute",
        "step overhead",
    ):
        for name in ("T4", "L4", "H200"):
            assert advice(limit, replace(CARD, gpu=find_gpu(name))).endswith(".")
