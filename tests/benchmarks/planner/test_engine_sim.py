"""Tests of benchmarks/planner/engine_sim.py: one simulated engine."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.planner.engine_sim import Engine, Limits, Request, StepTimes

sys.path.insert(0, str(Path(__file__).parent))
from reference import run_plainly

STEP = StepTimes(((1, 1.0),))
"""Every step takes a second, whatever is in it."""


def alone(engine: Engine, *requests: Request) -> list[Request]:
    for request in requests:
        engine.submit(request, request.arrived_s)
    return engine.advance(1e9)


def times(request: Request) -> tuple[float | None, ...]:
    return (request.started_s, request.first_token_s, request.first_answer_s, request.ended_s)


def limits(**changes: object) -> Limits:
    usual = Limits(max_num_seqs=4, max_num_batched_tokens=64, kv_tokens=4096)
    return replace(usual, **changes)


# ---- one request ----


def test_a_request_alone_takes_a_step_for_its_prompt_and_one_for_each_further_token():
    request = Request(2.0, prompt_tokens=10, think_tokens=3, answer_tokens=2)
    assert alone(Engine(STEP, limits()), request) == [request]
    assert times(request) == (2.0, 3.0, 6.0, 7.0)


def test_a_request_that_only_thinks_never_answers():
    request = Request(0.0, 10, 3, 0)
    alone(Engine(STEP, limits()), request)
    assert times(request) == (0.0, 1.0, None, 3.0)


def test_a_long_prompt_is_read_in_chunks_unless_it_is_cached():
    long, cached = Request(0.0, 150, 1, 0), Request(100.0, 150, 1, 0, cached_tokens=100)
    alone(Engine(STEP, limits()), long, cached)
    assert long.ended_s == 3.0
    assert cached.ended_s == 101.0


def test_a_slow_engine_takes_longer_for_every_step():
    request = Request(0.0, 10, 0, 4)
    alone(Engine(STEP, limits(), slowness=2.5), request)
    assert request.ended_s == 10.0


def test_a_step_takes_as_long_as_its_parts_say():
    parts = StepTimes(((1, 1.0), (3, 2.0)), weights_s=10, kv_token_s=0.1, prefill_token_s=0.5)
    assert parts.step_s(2, 100, 0) == pytest.approx(1.5 + 10 + 10)
    assert parts.step_s(5, 0, 4) == pytest.approx(3.0 + 10 + 2)
    assert replace(parts, overlapped=True).step_s(1, 0, 40) == pytest.approx(1 + 20)


# ---- several ----


def test_who_comes_during_a_step_joins_the_next():
    first, second = Request(0.0, 10, 0, 4), Request(0.5, 10, 0, 1)
    assert alone(Engine(STEP, limits()), first, second) == [second, first]
    assert second.started_s == 1.0
    assert second.ended_s == 2.0
    assert first.ended_s == 4.0


def test_no_more_run_than_there_are_seats_and_lower_priority_numbers_go_first():
    engine = Engine(STEP, limits(max_num_seqs=1))
    batch = Request(0.0, 10, 0, 2, priority=1)
    late, urgent = Request(0.1, 10, 0, 2, priority=1), Request(0.2, 10, 0, 2)
    assert alone(engine, batch, late, urgent) == [batch, urgent, late]


def test_a_prompt_shares_the_batch_with_those_that_decode():
    decoding, long = Request(0.0, 10, 0, 9), Request(0.5, 126, 0, 1)
    alone(Engine(STEP, limits()), decoding, long)
    assert long.ended_s == 3.0  # 63 tokens in a step beside one that decodes


def test_without_chunked_prefill_a_prompt_waits_for_a_step_with_room():
    plain = limits(chunked_prefill=False)
    first, second, third = (Request(0.0, 30, 0, 1) for _ in range(3))
    alone(Engine(STEP, plain), first, second, third)
    assert [r.ended_s for r in (first, second, third)] == [1.0, 1.0, 2.0]


def test_where_kv_runs_out_the_last_one_is_preempted_and_its_text_is_read_again():
    engine = Engine(STEP, limits(kv_tokens=64))
    first, second = Request(0.0, 16, 0, 40), Request(0.0, 16, 0, 20)
    alone(engine, first, second)
    assert first.num_preemptions == 0
    assert first.ended_s == 40.0
    assert second.num_preemptions == 1
    # It had 17 tokens when both needed a third block; it goes on when the first has ended.
    assert second.ended_s == 40.0 + 3
    assert engine.kv_usage == 0


def test_nobody_is_admitted_before_all_of_a_prompt_fits():
    engine = Engine(STEP, limits(kv_tokens=64))
    first, second = Request(0.0, 20, 0, 10), Request(0.0, 40, 0, 1)
    alone(engine, first, second)
    assert second.started_s == first.ended_s == 10.0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(0.0, 4000, 100, 0), "can't fit"),
        (Request(0.0, 0, 1, 1), "at least one prompt token"),
        (Request(0.0, 1, 0, 0), "at least one prompt token"),
    ],
)
def test_what_could_never_run_is_refused(request_: Request, words: str):
    with pytest.raises(ValueError, match=words):
        Engine(STEP, limits()).submit(request_, 0.0)


def test_limits_that_vllm_refuses_are_refused():
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        Limits(max_num_seqs=65, max_num_batched_tokens=64, kv_tokens=4096)


# ---- leaving, looking ----


def test_a_seat_is_free_when_its_client_has_left():
    engine = Engine(STEP, limits(max_num_seqs=1))
    first, second, third = (Request(0.0, 10, 0, 100) for _ in range(3))
    for request in (first, second, third):
        engine.submit(request, 0.0)
    engine.advance(5.0)
    assert (engine.num_running, engine.num_waiting, engine.num_requests) == (1, 2, 3)
    engine.remove(second, 5.0)
    engine.remove(first, 5.0)
    engine.remove(first, 5.0)
    assert engine.advance(1e9) == [third]
    assert third.started_s == 5.0
    assert (first.ended_s, second.ended_s) == (None, None)
    assert (engine.num_requests, engine.kv_usage) == (0, 0)


def test_an_idle_engine_has_no_next_event():
    engine = Engine(STEP, limits())
    assert engine.next_event_s() is None
    engine.submit(Request(3.0, 10, 2, 1), 3.0)
    seen = []
    while (event_s := engine.next_event_s()) is not None:
        seen.append(event_s)
        engine.advance(event_s)
    assert seen == [4.0, 6.0]


# ---- against the plain loop ----


def loads(most: int = 14) -> st.SearchStrategy[list[Request]]:
    request = st.builds(
        Request,
        # Roots of 2, 6, 10, …: no two of them are whole steps apart, where rounding would decide.
        arrived_s=st.integers(0, 900).map(lambda number: math.sqrt(4 * number + 2)),
        prompt_tokens=st.integers(1, 100),
        think_tokens=st.integers(1, 60),
        answer_tokens=st.integers(0, 30),
        cached_tokens=st.sampled_from([0, 0, 7, 1000]),
        priority=st.sampled_from([0, 0, 0, 1]),
    )
    return st.lists(request, min_size=1, max_size=most).map(
        lambda requests: sorted(requests, key=lambda request: request.arrived_s)
    )


TIMES = st.sampled_from(
    [
        STEP,
        StepTimes(((1, 0.1), (4, 0.3)), kv_token_s=0.001, prefill_token_s=0.01, request_s=0.2),
        StepTimes(((1, 0.1),), 0.05, 0.002, 0.03, 0.03, overlapped=True),
    ]
)
LIMITS = st.builds(
    Limits,
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.sampled_from([8, 20, 64, 256]),
    kv_tokens=st.sampled_from([208, 320, 1024]),
    block_tokens=st.sampled_from([1, 16]),
)


@given(loads(), TIMES, LIMITS, st.lists(st.floats(0, 400), max_size=6))
def test_jumps_are_what_single_steps_add_up_to(requests, step_times, limits_, looks):
    plain, most = run_plainly([replace(request) for request in requests], step_times, limits_)
    engine, ended = Engine(step_times, limits_), []
    looks = sorted(looks)
    for request in requests:
        while looks and looks[0] < request.arrived_s:
            ended += engine.advance(looks.pop(0))  # looking changes nothing
        engine.submit(request, request.arrived_s)
    for look in looks:
        ended += engine.advance(look)
        assert 0 <= engine.kv_usage <= 1
    ended += engine.advance(1e9)
    assert most <= limits_.kv_tokens // limits_.block_tokens
    assert sorted(map(_as_seen, ended)) == sorted(map(_as_seen, plain))
    assert (engine.num_requests, engine.kv_usage) == (0, 0)


def _as_seen(request: Request) -> tuple[object, ...]:
    sizes = (request.arrived_s, request.prompt_tokens, request.think_tokens, request.answer_tokens)
    seen = [None if at_s is None else round(at_s, 6) + 0.0 for at_s in times(request)]
    return (*sizes, request.priority, request.num_preemptions, *(str(at_s) for at_s in seen))


@given(loads(), TIMES, LIMITS)
def test_every_request_ends_once_in_order_of_time(requests, step_times, limits_):
    engine, ended = Engine(step_times, limits_), []
    for request in requests:
        ended += engine.advance(request.arrived_s)
        engine.submit(request, request.arrived_s)
    while (event_s := engine.next_event_s()) is not None:
        before = engine.num_requests
        new = engine.advance(event_s)
        assert engine.num_requests == before - len(new)
        ended += new
    assert sorted(map(id, ended)) == sorted(map(id, requests))
    ends = [request.ended_s for request in ended]
    assert ends == sorted(ends)
    for request in ended:
        assert request.arrived_s <= request.started_s < request.first_token_s <= request.ended_s
        assert (request.first_answer_s is None) == (request.answer_tokens == 0)


@given(loads(8), TIMES, st.integers(0, 7), st.floats(0, 100))
def test_who_leaves_holds_nothing_and_the_others_end(requests, step_times, number, leaves_s):
    engine, ended = Engine(step_times, limits(kv_tokens=208)), []
    leaver = requests[number % len(requests)]
    leaves_s = max(leaves_s, leaver.arrived_s)
    for request in [r for r in requests if r.arrived_s <= leaves_s]:
        engine.submit(request, request.arrived_s)
    engine.remove(leaver, leaves_s)
    for request in [r for r in requests if r.arrived_s > leaves_s]:
        engine.submit(request, request.arrived_s)
    ended = engine.advance(1e9)
    assert {id(r) for r in requests} - {id(r) for r in ended} <= {id(leaver)}
    assert (leaver in ended) == (leaver.ended_s is not None and leaver.ended_s <= leaves_s)
    assert (engine.num_requests, engine.kv_usage) == (0, 0)
