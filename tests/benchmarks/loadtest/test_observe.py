"""What the server's own pages tell, over the router with the stand-in, and by hand-made pages."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from benchmarks.loadtest.client import Endpoint
from benchmarks.loadtest.observe import Observer, Sample, figures_seen, sample_of, served_model
from benchmarks.stand_in import Options, StandInEngine
from serve.settings import SettingsError
from tests.support import eventually, running_router

ENGINE = b"""
vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_waiting{model_name="m"} 2.0
vllm:kv_cache_usage_perc{model_name="m"} 0.25
vllm:num_preemptions_total{model_name="m"} 5.0
vllm:prefix_cache_queries_total{model_name="m"} 100.0
vllm:prefix_cache_hits_total{model_name="m"} 40.0
"""
ROUTER = b"""
r1_queue_depth 4.0
r1_process_cpu_seconds_total 7.5
r1_process_resident_memory_bytes 1.048576e+08
"""


def test_engines_are_summed_and_the_fullest_cache_counts() -> None:
    fuller = ENGINE.replace(b"0.25", b"0.5")
    sample = sample_of(1.0, [ROUTER, ENGINE, fuller])
    assert (sample.num_running, sample.num_waiting, sample.kv_use) == (6, 4, 0.5)
    assert sample.counters["vllm:num_preemptions_total"] == 10
    assert sample.counters["r1_process_cpu_seconds_total"] == 7.5
    assert sample.num_queued == 4


def test_a_server_that_tells_nothing_is_no_error() -> None:
    sample = sample_of(1.0, [b"", b"<html>"])
    assert sample == Sample(1.0)
    assert not sample.is_busy
    assert figures_seen([sample, Sample(2.0)], 0.0, 3.0, 100) == {}


def test_counters_count_from_the_first_look_in_the_window_to_the_last() -> None:
    samples = []
    for second in range(10):
        sample = sample_of(float(second), [ROUTER, ENGINE])
        sample.counters["r1_process_cpu_seconds_total"] += 0.01 * second
        sample.counters["vllm:prefix_cache_queries_total"] += 10 * second
        sample.counters["vllm:prefix_cache_hits_total"] += 5 * second
        samples.append(sample)
    found = figures_seen(samples, 2.0, 6.0, num_tokens=4000)
    assert found["router_cpu_us_per_token"] == pytest.approx(1e6 * 0.04 / 4000)
    assert found["router_memory_mib"] == pytest.approx(100)
    assert found["prefix_hits"] == pytest.approx(0.5)
    assert found["preemptions"] == 0
    assert found["num_running"] == 3


def test_a_restart_counts_no_backwards_steps() -> None:
    samples = [sample_of(float(second), [ENGINE]) for second in range(4)]
    samples[3].counters["vllm:num_preemptions_total"] = 0
    assert "preemptions" not in figures_seen(samples, 0.0, 4.0, 100)


async def test_a_routers_engines_are_found_and_looked_at() -> None:
    async with StandInEngine(Options(step_ms=5)) as engine, running_router(engine.url) as router:
        endpoint = Endpoint(router.url, "stand-in")
        observer = Observer(endpoint, lambda: 0.0)
        watching = asyncio.create_task(observer.run())
        chat = asyncio.create_task(router.chat('script:{"think": 100000}'))
        await eventually(lambda: any(it.num_running == 1 for it in observer.samples), 10)
        chat.cancel()
        await asyncio.gather(chat, return_exceptions=True)
        async with asyncio.timeout(10):
            await observer.until_idle()
        assert engine.num_running == 0
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        assert observer.samples[0].counters["r1_process_cpu_seconds_total"] > 0
        assert await served_model(endpoint) == ("stand-in", "r1-serve")
        assert await served_model(Endpoint(router.url, "")) == ("stand-in", "r1-serve")
        with pytest.raises(SettingsError, match="did you mean `stand-in`"):
            await served_model(Endpoint(router.url, "standin"))


async def test_an_address_where_nothing_answers_is_told() -> None:
    with pytest.raises(SettingsError, match="check --url"):
        await served_model(Endpoint("http://127.0.0.1:9", "m"))
