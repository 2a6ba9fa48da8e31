"""A load test of real vLLM, through the router and without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loadtest.client import Endpoint
from benchmarks.loadtest.drive import Span
from benchmarks.loadtest.plan import Sweep
from benchmarks.loadtest.report import write_report
from benchmarks.loadtest.run import Plan, Progress, new_run, run_test
from benchmarks.loadtest.store import Run, Store, read_run
from benchmarks.loadtest.workload import Conversations, load_workload
from benchmarks.slo import Slo
from tests.conftest import RunningEngine
from tests.support import running_router

pytestmark = pytest.mark.engine

SPAN = Span(warm_up_s=1.0, measure_s=2.5, drain_s=30.0)


async def measured(url: str, directory: Path) -> Run:
    conversations = Conversations(load_workload("demo"))
    asked = Plan(Endpoint(url, "r1-demo"), conversations, Sweep(values=(8,)), SPAN, Slo())
    plan, run = await new_run(asked, "test", "r1-serve bench run")
    store = Store(directory)
    await run_test(plan, run, store, Progress())
    store.close()
    return read_run(directory)


async def test_what_users_and_the_engine_see_is_measured(
    engine: RunningEngine, tmp_path: Path
) -> None:
    async with running_router(engine.url) as router:
        run = await measured(router.url, tmp_path)
    (point,) = run.points
    figures = {name: estimate.mean for name, estimate in point.estimates().items()}
    assert run.server == "r1-serve"
    assert figures["answered"] == 1
    assert figures["right"] > 0.7
    assert figures["failed"] == figures["refused"] == figures["unfinished"] == 0
    assert 0 < figures["ttft_p50_ms"] < figures["ttfa_p50_ms"] < figures["e2e_p50_ms"]
    assert figures["reasoning_tokens"] > 10
    assert figures["output_tokens_per_s"] > figures["requests_per_s"] > 0
    assert 0 < figures["num_running"] <= 8
    assert 0 < figures["kv_use"] < 1
    assert figures["router_memory_mib"] > 10
    assert len(write_report(run, tmp_path)) == 6


async def test_a_plain_engine_can_be_measured_too(engine: RunningEngine, tmp_path: Path) -> None:
    run = await measured(engine.url, tmp_path)
    (point,) = run.points
    figures = {name: estimate.mean for name, estimate in point.estimates().items()}
    assert run.server == "vllm"
    assert figures["answered"] == 1
    assert figures["output_tokens_per_s"] > 0
    assert 0 < figures["num_running"] <= 8
