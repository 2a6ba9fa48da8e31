"""Brownout over HTTP: what clients are told, who is spared, and that it passes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve.lengths import MIN_LENGTHS
from serve.settings import BrownoutSettings
from tests.support import RunningRouter, eventually, running_router

NUM_THINKING, MINIMUM = 60, 10
ON = BrownoutSettings(enabled=True, min_thinking_tokens=MINIMUM, recovery_s=0.5)
BATCH = {"service_tier": "flex"}
ENDLESS = 'script:{"think": 20000}'


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    options = Options(step_ms=2, prefill_ms=0, think_tokens=NUM_THINKING, answer_tokens=5)
    async with StandInEngine(options) as engine:
        yield engine


async def learn(router: RunningRouter) -> None:
    """So many generations that it is known how long they think."""
    for _ in range(MIN_LENGTHS):
        assert (await router.chat("hi")).json()["r1"]["budget_source"] == "preset"


def num_thinking(reply: httpx.Response) -> int:
    tokens: int = reply.json()["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return tokens


def budget(reply: httpx.Response) -> tuple[int, str]:
    r1 = reply.json()["r1"]
    return r1["thinking_token_budget"], r1["budget_source"]


async def keep_asking(router: RunningRouter, num_clients: int, seconds: float) -> list[Any]:
    """Replies to as many clients that ask again and again."""
    replies, end_s = [], time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end_s:
            replies.append(await router.chat("hi"))

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return replies


@contextlib.asynccontextmanager
async def open_streams(
    router: RunningRouter, engine: StandInEngine, num: int
) -> AsyncIterator[Any]:
    """So many slots are taken by replies that go on."""
    body = {"prompt": ENDLESS, "max_tokens": 20_000, "stream": True}
    before = len(engine.running)
    streams = [
        asyncio.create_task(router.http.post("/v1/completions", json=body)) for _ in range(num)
    ]
    await eventually(lambda: len(engine.running) == before + num)
    yield
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    await eventually(lambda: len(engine.running) == before)


async def test_budgets_shrink_under_load_and_grow_back(engine: StandInEngine) -> None:
    """Twelve clients on two slots, and a line that holds them all: after a second they are told
    that they think less, and do; nobody is refused. Once it is over budgets are the usual ones."""
    limits = {"max_in_flight": 2, "max_queued": 24}
    async with running_router(engine.url, brownout=ON, **limits) as router:
        await learn(router)
        replies = await keep_asking(router, 12, seconds=2.5)
        assert {reply.status_code for reply in replies} == {200}
        assert all(reply.json()["choices"][0]["message"]["content"] for reply in replies)
        tokens, source = budget(replies[-1])
        assert source == "brownout"
        assert MINIMUM <= tokens < NUM_THINKING / 2
        assert num_thinking(replies[-1]) == tokens
        assert min(map(num_thinking, replies)) >= MINIMUM
        text = (await router.http.get("/metrics")).text
        assert 'r1_thinking_budgets_total{preset="chat",source="brownout"}' in text
        await eventually(lambda: router.router.brownout.level() == 0)
        after = await router.chat("hi")
        assert budget(after) == (8192, "preset")
        assert num_thinking(after) == NUM_THINKING
        text = (await router.http.get("/metrics")).text
        assert 'r1_brownout_level{class="interactive"} 0.0' in text


async def test_batch_work_thinks_less_first(engine: StandInEngine) -> None:
    """Nine of ten slots are taken. The stream says it in its headers, and a budget of the client's
    own is capped as well, unless it is small enough or the answer would be lost."""
    async with running_router(engine.url, brownout=ON, max_in_flight=10) as router:
        await learn(router)
        async with open_streams(router, engine, 9):
            await eventually(lambda: router.router.brownout.level(10) > 0.2)
            assert router.router.brownout.level() == 0
            assert budget(await router.chat("hi")) == (8192, "preset")
            capped = await router.chat("hi", **BATCH)
            tokens, source = budget(capped)
            assert (source, num_thinking(capped)) == ("brownout", tokens)
            assert MINIMUM < tokens < NUM_THINKING
            streamed = await router.chat("hi", stream=True, thinking_token_budget=300, **BATCH)
            assert streamed.headers["x-r1-budget-source"] == "brownout"
            assert int(streamed.headers["x-r1-thinking-token-budget"]) == tokens
            for fields, own in (
                ({"thinking_token_budget": MINIMUM}, (MINIMUM, "request")),
                ({"ignore_eos": True, "max_tokens": 90}, (8192, "preset")),
                ({"recover": False}, (8192, "preset")),
            ):
                assert budget(await router.chat("hi", **fields, **BATCH)) == own
            body = {"prompt": ENDLESS, "max_tokens": 90, **BATCH}
            plain = (await router.http.post("/v1/completions", json=body)).json()
            assert plain["usage"]["completion_tokens"] == 90
            assert 'class="batch"} 0.2' in (await router.http.get("/metrics")).text


async def test_engines_that_others_fill_press_too(engine: StandInEngine) -> None:
    """The router's own slots are free; requests wait at the engine, as its metrics tell."""
    small = Options(step_ms=2, prefill_ms=0, max_num_seqs=10)
    async with StandInEngine(small) as full, running_router(full.url, brownout=ON) as router:
        async with httpx.AsyncClient(base_url=full.url, timeout=60) as others:
            body = {"model": "stand-in", "prompt": ENDLESS, "max_tokens": 20_000}
            tasks = [
                asyncio.create_task(others.post("/v1/completions", json=body)) for _ in range(40)
            ]
            await eventually(lambda: router.router.brownout.level() == 1)
            for task in tasks:
                task.cancel()
        await eventually(lambda: router.router.brownout.level() == 0)


async def test_switched_off_nothing_shrinks(engine: StandInEngine) -> None:
    async with running_router(engine.url, max_in_flight=2) as router:
        replies = await keep_asking(router, 12, seconds=1.5)
        assert {budget(reply) for reply in replies} == {(8192, "preset")}
