"""Several router processes on one port: real processes over the stand-in engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.stand_in import Options, StandInEngine
from tests.conftest import R1_SERVE, ROOT, Program
from tests.support import eventually, gone

NUM_CONNECTIONS = 40
"""The kernel spreads connections by hash: that one worker of two gets none of so many has a chance
of 2 to the power of -39."""


class Workers:
    """`r1-serve router --workers 2`, running; each of `http`'s requests has its own connection."""

    def __init__(self, program: Program, url: str, http: httpx.AsyncClient) -> None:
        self.program = program
        self.url = url
        self.http = http

    def processes(self) -> list[psutil.Process]:
        found = psutil.Process(self.program.process.pid).children()
        return [process for process in found if not gone([process])]

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def chat(self, text: str = "hi", **fields: object) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def count(self, outcome: str = "ok") -> int:
        text = (await self.get("/metrics")).text
        found = re.findall(rf'^r1_requests_total{{.*outcome="{outcome}".*}} (\S+)', text, re.M)
        return int(sum(map(float, found)))

    async def gauge(self, name: str) -> float:
        text = (await self.get("/metrics")).text
        (value,) = re.findall(rf"^{name} (\S+)", text, re.M)
        return float(value)


@contextlib.asynccontextmanager
async def workers(
    engine: StandInEngine, *arguments: str, temporary: Path | None = None
) -> AsyncIterator[Workers]:
    """`temporary`: where it makes its scratch directory."""
    options = ("--engine-url", engine.url, "--port", "0", "--workers", "2")
    env = {"TMPDIR": str(temporary)} if temporary else {}
    program = await asyncio.to_thread(Program, "router", *options, *arguments, env=env)
    try:
        line = await asyncio.to_thread(program.wait_for, "Serving ", 30)
        url = next(word for word in line.split() if word.startswith("http://"))
        one_each = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=one_each) as http:
            yield Workers(program, url, http)
        if program.process.poll() is None:
            assert await asyncio.to_thread(program.stop) == 0
    finally:
        await asyncio.to_thread(program.close)


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(step_ms=1, think_tokens=4, answer_tokens=4)) as engine:
        yield engine


async def eventually_equal(read: Callable[[], object], wanted: object) -> None:
    """Waits until `await read()` is `wanted`."""
    deadline = time.monotonic() + 20
    while (value := await read()) != wanted:  # type: ignore[misc]
        assert time.monotonic() < deadline, value
        await asyncio.sleep(0.02)


async def test_all_workers_serve_and_any_of_them_tells_the_total(engine: StandInEngine) -> None:
    """Both get connections; counters and gauges are sums, whoever is asked."""
    async with workers(engine) as running:
        host, _, port = running.url.removeprefix("http://").partition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(NUM_CONNECTIONS)]
        await eventually(
            lambda: all(
                any(c.status == "ESTABLISHED" and c.laddr.port == int(port) for c in connections)
                for connections in (p.net_connections("tcp") for p in running.processes())
            )
        )
        for _, writer in opened:
            writer.close()
        replies = await asyncio.gather(*(running.chat() for _ in range(NUM_CONNECTIONS)))
        assert {reply.status_code for reply in replies} == {200}
        await eventually_equal(running.count, NUM_CONNECTIONS)
        assert {await running.count() for _ in range(8)} == {NUM_CONNECTIONS}
        assert await running.gauge("r1_replicas") == 1
        await eventually_equal(lambda: running.gauge("r1_replicas_ready"), 1)

        stall = {"fault": {"kind": "stall", "after": 2}}
        text = "script:" + json.dumps(stall)
        hanging = [
            asyncio.create_task(running.chat(text, stream=True)) for _ in range(NUM_CONNECTIONS)
        ]
        await eventually(lambda: len(engine.running) == NUM_CONNECTIONS)
        await eventually_equal(lambda: running.gauge("r1_in_flight"), NUM_CONNECTIONS)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await eventually_equal(lambda: running.gauge("r1_in_flight"), 0)


async def test_a_killed_worker_comes_back_and_no_counter_falls(engine: StandInEngine) -> None:
    """`kill -9`: the others serve on, its requests stay counted, and its in-flight ones don't."""
    async with workers(engine) as running:
        await asyncio.gather(*(running.chat() for _ in range(NUM_CONNECTIONS)))
        await eventually_equal(running.count, NUM_CONNECTIONS)
        victim, other = running.processes()
        victim.kill()
        await eventually(lambda: len({*running.processes()} - {victim, other}) == 1)
        assert await running.count() == NUM_CONNECTIONS
        assert other.is_running()
        replies = await asyncio.gather(*(running.chat() for _ in range(NUM_CONNECTIONS)))
        assert [reply.text for reply in replies if reply.status_code != 200] == []
        await eventually_equal(running.count, 2 * NUM_CONNECTIONS)
        await eventually_equal(lambda: running.gauge("r1_in_flight"), 0)


async def test_sigterm_drains_every_worker(engine: StandInEngine, tmp_path: Path) -> None:
    """Streams in both end whole; the status is 0 and nothing of the scratch directory is left."""
    text = "script:" + json.dumps({"think": 40, "answer": "end"})
    async with workers(engine, temporary=tmp_path) as running:
        engine.wedge()
        streams = [
            asyncio.create_task(running.chat(text, stream=True)) for _ in range(NUM_CONNECTIONS)
        ]
        await eventually(lambda: len(engine.running) == NUM_CONNECTIONS)
        assert os.listdir(tmp_path)
        running.program.process.send_signal(signal.SIGTERM)
        engine.wedge(False)
        replies = await asyncio.gather(*streams)
        assert all(reply.text.endswith("data: [DONE]\n\n") for reply in replies)
        assert await asyncio.to_thread(running.program.process.wait, 20) == 0
        assert not os.listdir(tmp_path)


async def test_workers_end_with_a_killed_parent(engine: StandInEngine, tmp_path: Path) -> None:
    """And take the scratch directory with them."""
    async with workers(engine, temporary=tmp_path) as running:
        processes = running.processes()
        assert os.listdir(tmp_path)
        running.program.process.kill()
        await eventually(lambda: gone(processes))
        assert not os.listdir(tmp_path)


async def test_sighup_reloads_the_presets_of_every_worker(
    engine: StandInEngine, tmp_path: Path
) -> None:
    """Whoever is asked shows the new value."""
    presets = tmp_path / "presets.toml"
    table = "[reasoning_effort]\nlow = 1\n[presets.chat]\ndescription='d'\nsource='s'\n"
    presets.write_text(f"{table}temperature = 0.5\n")
    config = tmp_path / "t.toml"
    config.write_text('[router]\npresets = "presets.toml"\n')
    async with workers(engine, "--config", str(config)) as running:
        presets.write_text(f"{table}temperature = 0.7\n")
        running.program.process.send_signal(signal.SIGHUP)

        async def shown() -> set[float]:
            replies = [await running.get("/v1/presets") for _ in range(NUM_CONNECTIONS // 2)]
            return {reply.json()["data"][0]["temperature"] for reply in replies}

        await eventually_equal(shown, {0.7})


async def test_a_port_that_others_share_is_taken_all_the_same(engine: StandInEngine) -> None:
    """A second start on the same port fails with a sentence, instead of getting half the load."""
    async with workers(engine) as running:
        port = running.url.rpartition(":")[2]
        done = await asyncio.to_thread(
            subprocess.run,
            [*R1_SERVE, "router", "--engine-url", engine.url, "--port", port, "--workers", "2"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_worker_that_can_not_start_ends_all(tmp_path: Path) -> None:
    """The worker says why; the status is 1; no endless restarts."""
    config = tmp_path / "t.toml"
    config.write_text('[router]\npresets = "none.toml"\n')
    arguments = ["router", "--engine-url", "http://127.0.0.1:9", "--port", "0", "--workers", "2"]
    arguments += ["--config", str(config)]
    done = subprocess.run(
        [*R1_SERVE, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "none.toml: No such file" in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_limit_is_one_for_all_workers(engine: StandInEngine, tmp_path: Path) -> None:
    """Four slots, whoever takes them; the other chats are told to come back."""
    config = tmp_path / "t.toml"
    config.write_text("[router]\nmax_in_flight = 4\nmax_queued = 0\n")
    text = "script:" + json.dumps({"fault": {"kind": "stall", "after": 2}})
    async with workers(engine, "--config", str(config)) as running:
        chats = {
            asyncio.create_task(running.chat(text, stream=True)) for _ in range(NUM_CONNECTIONS)
        }
        await eventually(lambda: sum(chat.done() for chat in chats) == NUM_CONNECTIONS - 4)
        await eventually(lambda: len(engine.running) == 4)
        assert {chat.result().status_code for chat in chats if chat.done()} == {429}
        for chat in chats:
            chat.cancel()
        await asyncio.gather(*chats, return_exceptions=True)
        await eventually(lambda: not engine.running)
