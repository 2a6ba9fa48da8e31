"""Tests of benchmarks/planner/drive.py: known requests on an endpoint, here the stand-in."""

from __future__ import annotations

import pytest

from benchmarks.loadtest.client import Endpoint
from benchmarks.planner import drive
from benchmarks.planner.samples import Size
from benchmarks.stand_in import Fault, Options, StandInEngine

OPTIONS = Options(step_ms=2, prefill_ms=1, think_tokens=1000)
SIZES = [Size(40, 5), Size(60, 9)]


def endpoint_of(engine: StandInEngine) -> Endpoint:
    return Endpoint(engine.url, OPTIONS.model)


async def test_prompts_have_the_tokens_that_were_asked():
    async with StandInEngine(OPTIONS) as engine:
        target = await drive.find_template(endpoint_of(engine))
        assert target.template_tokens > 0
        before = engine.counters.prompt_tokens
        await drive.open_loop(target, SIZES, [0.0, 0.01])
        assert engine.counters.prompt_tokens - before == 100


async def test_a_closed_loop_goes_round_its_sizes_until_its_time_is_over():
    async with StandInEngine(OPTIONS) as engine:
        samples = await drive.closed(drive.Target(endpoint_of(engine)), SIZES, 2, 0.2)
        assert {sample.size for sample in samples} == set(SIZES)
        assert all(0 <= s.sent_s < 0.2 and s.sent_s < s.first_s <= s.ended_s for s in samples)


async def test_an_open_loop_counts_from_when_a_request_was_due():
    async with StandInEngine(OPTIONS) as engine:
        times_s = [0.0, 0.05, 0.05]
        samples = await drive.open_loop(drive.Target(endpoint_of(engine)), SIZES, times_s)
        assert [sample.sent_s for sample in samples] == times_s
        assert [sample.size for sample in samples] == [SIZES[0], SIZES[1], SIZES[0]]


async def test_no_request_may_fail():
    async with StandInEngine(OPTIONS) as engine:
        engine.arm(Fault("status"))
        with pytest.raises(drive.DriveError, match="got 0: status"):
            await drive.closed(drive.Target(endpoint_of(engine)), SIZES, 1, 0.1)


def test_every_load_and_every_request_has_a_prompt_of_its_own():
    target, other = (drive.Target(Endpoint("http://x", "m"), salt=salt) for salt in (1, 2))
    bodies = [target.body(SIZES[0], 0), target.body(SIZES[0], 1), other.body(SIZES[0], 0)]
    assert len({str(body["messages"]) for body in bodies}) == 3
    assert target.body(SIZES[0], 0) == bodies[0]
