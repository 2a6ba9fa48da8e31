"""A step over the stand-in engine: what is sent when, what is measured, what is left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from benchmarks.loadtest.client import Endpoint
from benchmarks.loadtest.drive import Driver, Span, Step
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.prompts import Task
from benchmarks.loadtest.workload import Conversations, Workload, load_workload
from benchmarks.stand_in import Fault, Options, StandInEngine
from tests.support import eventually

OPTIONS = Options(step_ms=4, prefill_ms=1, think_tokens=10, answer_tokens=4)
QUICK = Span(warm_up_s=0.2, measure_s=0.6, drain_s=2.0)
CHATS = """
[[tenants]]
name = "chats"
prompts = { from = "words", tokens = 20 }
turns = 3
pause_s = 0.02
system = "Be brief."
"""


async def driven(
    engine: StandInEngine, load: Load, span: Span = QUICK, workload: Workload | None = None
) -> Step:
    conversations = Conversations(workload or load_workload("demo"))
    step = Step(load, span)
    await Driver(Endpoint(engine.url, "stand-in"), conversations).run(step)
    return step


async def test_a_closed_loop_keeps_so_many_under_way() -> None:
    async with StandInEngine(OPTIONS) as engine:
        step = await driven(engine, Load("concurrency", 8))
        await eventually(lambda: engine.num_running == 0)
    busy_s = sum(record.e2e_s or 0 for record in step.measured)
    assert busy_s / QUICK.measure_s > 6
    assert len(step.measured) >= 8
    assert all(record.ok for record in step.measured)
    assert step.window.num_events > 8 * 14
    assert step.client_cpu_s > 0
    assert step.lags_s


async def test_an_open_loop_asks_whatever_has_ended_and_counts_from_when_it_was_due() -> None:
    """An engine that stalls gets the same arrivals."""
    async with StandInEngine(Options(step_ms=200, think_tokens=20)) as engine:
        step = await driven(engine, Load("rate", 50, 0.0), Span(0.0, 0.5, 0.0))
    assert len(step.measured) == pytest.approx(24, abs=2)
    due = [record.due_at_s for record in step.measured]
    assert due == pytest.approx([0.02 * (i + 1) for i in range(len(due))])
    assert not any(record.ok for record in step.measured)
    assert all(record.unfinished and record.left_at_s for record in step.measured)


async def test_a_batch_is_sent_at_once_and_the_window_ends_with_it() -> None:
    async with StandInEngine(OPTIONS) as engine:
        step = await driven(engine, Load("batch", 20), Span(5.0, 30.0, 5.0))
    assert len(step.measured) == 20
    assert all(record.ok for record in step.measured)
    assert step.window.begin_s == 0
    assert step.window.end_s == pytest.approx(max(it.ended_at_s or 0 for it in step.records))


async def test_a_batch_lasts_as_long_as_replies_end_and_no_longer() -> None:
    """Whatever --seconds say; where none ends for the client's patience it is given up."""
    async with StandInEngine(Options(step_ms=20, think_tokens=20, max_num_seqs=1)) as engine:
        step = await driven(engine, Load("batch", 3), Span(0.0, 0.1, 1.5))
        assert all(record.ok for record in step.measured)
        engine.arm(Fault("stall", after=2))
        step = await driven(engine, Load("batch", 2), Span(0.0, 0.1, 0.4))
    assert all(record.unfinished and record.left_at_s for record in step.records)


async def test_a_check_that_fails_on_what_a_model_says_costs_no_client() -> None:
    def check(content: str) -> bool:
        raise ValueError(content)

    conversations = Conversations(load_workload("demo"))
    conversations._sources = {"demo": lambda rng, _: Task("hi", check)}
    async with StandInEngine(OPTIONS) as engine:
        step = Step(Load("concurrency", 4), QUICK)
        await Driver(Endpoint(engine.url, "stand-in"), conversations).run(step)
    assert len(step.measured) > 8
    assert all(record.right is False for record in step.measured if record.ok)


async def test_a_mistake_of_ours_ends_the_test() -> None:
    def broken(rng: Random, num_tokens: int | None) -> Task:
        raise RuntimeError("a mistake")

    conversations = Conversations(load_workload("demo"))
    conversations._sources = {"demo": broken}
    async with StandInEngine(OPTIONS) as engine:
        driver = Driver(Endpoint(engine.url, "stand-in"), conversations)
        with pytest.raises(RuntimeError, match="a mistake"):
            await driver.run(Step(Load("concurrency", 2), Span(60.0, 60.0, 60.0)))


async def test_a_ramp_is_not_measured() -> None:
    async with StandInEngine(OPTIONS) as engine:
        load = Load("rate", 50.0, ramp_s=0.8)
        step = await driven(engine, load, Span(0.2, 0.3, 2.0))
    assert step.window.begin_s == 0.8


async def test_turns_follow_each_other_with_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "chats.toml").write_text(CHATS)
    workload = load_workload(str(tmp_path / "chats.toml"))
    async with StandInEngine(OPTIONS) as engine:
        step = await driven(engine, Load("batch", 1), Span(0.0, 5.0, 5.0), workload)
        bodies = [request["body"] for request in engine.requests]
    roles = [[message["role"] for message in body["messages"]] for body in bodies]
    assert roles == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user", "assistant", "user", "assistant", "user"],
    ]
    assert bodies[1]["messages"][2]["content"]
    assert [record.turn for record in step.records] == [0, 1, 2]
    for one, other in zip(step.records, step.records[1:], strict=False):
        assert one.ended_at_s is not None
        assert other.due_at_s >= one.ended_at_s + 0.02


async def test_failures_end_a_conversation_and_are_not_retried_in_a_tight_loop() -> None:
    async with StandInEngine(OPTIONS) as engine:
        engine.arm(Fault("status", status=503))
        step = await driven(engine, Load("concurrency", 2), Span(0.0, 1.5, 0.5))
    assert all(record.refused for record in step.measured)
    assert 2 <= len(step.measured) <= 4


async def test_what_was_measured_is_there_when_it_is_interrupted() -> None:
    async with StandInEngine(OPTIONS) as engine:
        step = Step(Load("concurrency", 4), Span(0.0, 60.0, 60.0))
        driver = Driver(Endpoint(engine.url, "stand-in"), Conversations(load_workload("demo")))
        task = asyncio.create_task(driver.run(step))
        await eventually(lambda: sum(record.ok for record in step.records) >= 8)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: engine.num_running == 0)
    assert step.interrupted
    assert step.window.end_s < 30
    assert not any(record.unfinished for record in step.measured)
    assert sum(record.ok for record in step.measured) >= 8
