"""Every panel of every dashboard shows something: a real Prometheus over the router, a real engine
and two stand-ins that fail where a sound engine wouldn't."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.settings import BrownoutSettings, ServerSettings
from tests.conftest import RunningEngine
from tests.monitoring.support import DASHBOARDS, Prometheus, panel_queries, prometheus
from tests.support import RunningRouter, program, running_router
from tests.test_router_admission import bearer, make_key

STAND_IN = {"model": "stand-in"}
ENOUGH_S = 25.0
LONG = "What is 12 + 30? " * 40
"""Blocks of vLLM's prefix cache hold 128 tokens on a CPU."""
STAYS_0 = {"fleet: Preemptions A": "an engine preempts where its KV cache is too small"}


def scripted(**script: Any) -> str:
    return "script:" + json.dumps({"think": 20, "answer": "\n\nIt is \\boxed{4}.", **script})


class Traffic:
    """Each kind of request that a panel tells apart."""

    def __init__(self, router: RunningRouter, engine: RunningEngine) -> None:
        self._router = router
        self._real = {"model": engine.model}

    async def round(self, engines: tuple[StandInEngine, StandInEngine]) -> None:
        await asyncio.gather(self._good(), self._hangs_up(), self._wrong())
        await self._crowd()
        await self._faults(*engines)

    async def _good(self) -> None:
        chat = self._router.chat
        replies = await asyncio.gather(
            chat("What is 12 + 30?", **self._real, preset="math"),
            chat("What is 12 + 30?", **self._real, stream=True, preset="chat"),
            chat("What is 47 + 85?", **self._real, preset="math", votes=3, temperature=0.9),
            chat("What is 47 + 85?", **self._real, preset="math", thinking_token_budget=16),
            chat("What is 3 + 4?", **self._real, preset="math", max_tokens=24),
            chat(LONG, **self._real, max_tokens=16),
            chat(scripted(think="It may be 4 or 5. Let me check. " * 50), **STAND_IN),
            chat(scripted(answer=60), **STAND_IN, max_tokens=40, recover=False),
            chat(scripted(), **STAND_IN, service_tier="flex"),
            self._router.http.post("/v1/completions", json={"prompt": "1+1", **STAND_IN}),
        )
        assert [reply.text for reply in replies if reply.status_code != 200] == []

    async def _hangs_up(self) -> None:
        body = {"messages": [{"role": "user", "content": scripted(think=5000)}], **STAND_IN}
        async with self._router.http.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": True}
        ) as reply:
            await anext(reply.aiter_bytes())

    async def _wrong(self) -> None:
        assert (await self._router.chat(no_such_field=1)).status_code == 400
        async with httpx.AsyncClient(base_url=self._router.url) as http:
            assert (await http.post("/v1/chat/completions", json={})).status_code == 401

    async def _crowd(self) -> None:
        """More than there are slots and places in the line: some wait, some are refused, and those
        who come meanwhile think less."""
        text = scripted(think=200)
        replies = await asyncio.gather(
            *(self._router.chat(text, **STAND_IN, service_tier="flex") for _ in range(24))
        )
        assert {reply.status_code for reply in replies} == {200, 429}

    async def _faults(self, one: StandInEngine, other: StandInEngine) -> None:
        """A stream that breaks off and goes on elsewhere; an engine that is being stopped; one that
        fails on a request; both too busy."""
        for engine in (one, other):
            engine.arm(Fault("close", after=5, times=1))
        assert (await self._router.chat(scripted(), **STAND_IN)).status_code == 200
        for engine in (one, other):
            engine.arm(None)
        one.draining = True
        for number in range(12):  # each another prompt: equal ones stay on one engine
            text = f"{number} {scripted(think=2)}"
            assert (await self._router.chat(text, **STAND_IN)).status_code == 200
        one.draining = False
        failed = await self._router.chat(scripted(fault={"kind": "status"}), **STAND_IN)
        assert failed.status_code == 502
        for engine in (one, other):
            engine.arm(Fault("status", status=503))
        assert (await self._router.chat(scripted(), **STAND_IN)).status_code == 503
        for engine in (one, other):
            engine.arm(None)


@contextlib.asynccontextmanager
async def stack(
    folder: Path, engine: RunningEngine
) -> AsyncIterator[tuple[RunningRouter, tuple[StandInEngine, StandInEngine]]]:
    """A router with keys, few slots and a short line, before engines with even fewer."""
    keys_file = folder / "keys.toml"
    key = make_key(keys_file, "alice")
    options = Options(step_ms=2, prefill_ms=0, max_num_seqs=3)
    async with (
        StandInEngine(options) as one,
        StandInEngine(options) as other,
        running_router(
            engine.url,
            one.url,
            other.url,
            server=ServerSettings(port=0, drain_timeout_s=5, keys_file=str(keys_file)),
            brownout=BrownoutSettings(enabled=True, recovery_s=2, min_thinking_tokens=16),
            headers=bearer(key),
            max_in_flight=12,
            max_queued=8,
        ) as router,
    ):
        yield router, (one, other)


@pytest.mark.engine
async def test_every_panel_has_data(engine: RunningEngine, tmp_path: Path) -> None:
    """Each query of each dashboard gives numbers, and not only zeros; the traffic goes on until
    it does. No Kubernetes is here to be asked."""
    program("prometheus", package="prometheus")
    async with stack(tmp_path, engine) as (router, stand_ins):
        jobs = {"r1-router": [router.url], "r1-engine": [engine.url, *(it.url for it in stand_ins)]}
        traffic = Traffic(router, engine)
        start_s = time.time()
        async with scraping(tmp_path, jobs) as prometheus:
            bare = ["nothing has been asked yet"]
            while bare and time.time() < start_s + ENOUGH_S:
                await traffic.round(stand_ins)
                bare = await asyncio.to_thread(without_data, prometheus, start_s)
            assert not bare, "\n".join(bare)
            loaded = await asyncio.to_thread(prometheus.get, "rules")
    assert len(loaded["groups"]) >= 5


@contextlib.asynccontextmanager
async def scraping(folder: Path, jobs: dict[str, list[str]]) -> AsyncIterator[Prometheus]:
    """In a thread, since what is scraped runs in this one."""
    with contextlib.ExitStack() as entered:
        yield await asyncio.to_thread(entered.enter_context, prometheus(folder, jobs))


def without_data(prometheus: Prometheus, start_s: float) -> list[str]:
    found = []
    queries = (it for path in DASHBOARDS for it in panel_queries(path))
    for query in (it for it in queries if "kube_" not in it.expr):
        series = prometheus.over_time(query.filled("5s"), start_s, time.time())
        values = [value for one in series for value in one if not math.isnan(value)]
        if not values:
            found.append(f"{query.where}: nothing")
        elif not any(values) and query.where not in STAYS_0:
            found.append(f"{query.where}: only zeros")
    return found
