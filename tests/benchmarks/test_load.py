"""The load generator sees what the stand-in does."""

import asyncio

import pytest

from benchmarks.load import Load, run
from benchmarks.stand_in import Fault, Options, StandInEngine

OPTIONS = Options(step_ms=10, prefill_ms=2, think_tokens=10, answer_tokens=4)
QUICK = {"streams": 8, "ramp_s": 0.05, "warm_up_s": 0.1, "measure_s": 0.6}


async def test_closed_loop_keeps_its_streams_full(capsys: pytest.CaptureFixture[str]) -> None:
    async with StandInEngine(OPTIONS) as engine:
        figures = await run(Load(engine.url, **QUICK))
        assert capsys.readouterr().out == "begin\nend\n"
        assert figures["num_errors"] == 0
        assert figures["num_requests"] >= 8
        assert figures["num_events"] >= 8 * 14
        assert 5 < figures["itl_p50_ms"] < 100  # the engine's step is 10
        assert 2 < figures["ttft_p50_ms"] < 200  # prefill, then the next step
        async with asyncio.timeout(5):
            while engine.num_running:  # noqa: ASYNC110 - the clients hung up
                await asyncio.sleep(0.002)


async def test_short_whole_replies_are_counted() -> None:
    async with StandInEngine(OPTIONS) as engine:
        figures = await run(Load(engine.url, stream=False, max_tokens=2, **QUICK))
        assert figures["num_requests"] >= 16
        assert figures["num_errors"] == 0


@pytest.mark.parametrize(
    "fault", [Fault("status"), Fault("close", after=3), Fault("truncated", after=3)]
)
async def test_failures_are_errors(fault: Fault) -> None:
    async with StandInEngine(OPTIONS) as engine:
        engine.arm(fault)
        figures = await run(Load(engine.url, **QUICK))
        assert figures["num_errors"] > 0
