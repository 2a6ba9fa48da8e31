"""The life of one machine: over the stand-in for vLLM, and once over real vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serve.console import Console
from serve.engine import Machine
from serve.engine_faults import EngineStartError
from serve.engine_process import free_port, is_healthy
from serve.launch import up
from serve.settings import EngineSettings, ServerSettings, Settings, config_dir
from serve.supervise import Backoff
from tests.conftest import ROOT, Program

CPU = Machine(device="cpu", vllm_version="0.32.0")
FAKE_PATH = str(ROOT / "tests" / "fake_vllm")
LOGS = ROOT / "tests" / "data" / "engine_logs"
REAL_READY_S = 240.0


def fake_settings(tmp_path: Path, num_replicas: int = 1, **env: str) -> Settings:
    (tmp_path / "config.json").touch()
    engine = EngineSettings(
        model=str(tmp_path),
        served_name="m",
        num_replicas=num_replicas,
        port=0,
        log_dir=str(tmp_path / "logs"),
        shutdown_timeout_s=1,
        env={"PYTHONPATH": FAKE_PATH} | env,
    )
    return Settings(server=ServerSettings(port=0), engine=engine)


class FakeRouter:
    """Stands where the router runs: says when, over which engines, and returns when told."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.finish = asyncio.Event()
        self.urls: list[str] = []
        self.healthy_at_end: list[bool] = []

    async def __call__(self, settings: Settings) -> None:
        self.urls = settings.router.engine_urls
        self.started.set()
        await self.finish.wait()
        self.healthy_at_end = [await is_healthy(url) for url in self.urls]


@contextlib.asynccontextmanager
async def launched(
    settings: Settings, router: Callable[[Settings], Awaitable[None]]
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(up(settings, CPU, Console(io.StringIO()), router))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartError):
            await task


OTHERS: set[psutil.Process] = set()
"""Processes that were there before the test: the engine that the whole run shares."""


@pytest.fixture(autouse=True)
def _mark_others() -> None:
    OTHERS.clear()
    OTHERS.update(psutil.Process().children(recursive=True))


def children() -> list[psutil.Process]:
    found = set(psutil.Process().children(recursive=True)) - OTHERS
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


async def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.02)


async def test_router_runs_over_ready_engines_which_outlive_it(tmp_path: Path) -> None:
    """The router starts when every engine serves, and has ended before they are told to stop."""
    router = FakeRouter()
    async with launched(fake_settings(tmp_path, num_replicas=2), router) as task:
        await router.started.wait()
        assert len(set(router.urls)) == 2
        assert all([await is_healthy(url) for url in router.urls])
        processes = children()
        router.finish.set()
        await asyncio.wait_for(task, 20)
    assert router.healthy_at_end == [True, True]
    await until(lambda: gone(processes))


async def test_a_signal_during_start_up_stops_cleanly(tmp_path: Path) -> None:
    """SIGTERM while an engine loads: no error, no wait, nothing left."""
    router = FakeRouter()
    async with launched(fake_settings(tmp_path, FAKE_VLLM="silent"), router) as task:
        await until(lambda: len(children()) >= 3)
        processes = children()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 10)
    assert not router.started.is_set()
    await until(lambda: gone(processes))


async def test_a_second_signal_hurries(tmp_path: Path) -> None:
    """An engine that won't stop is killed when asked again, long before its time is over."""
    settings = fake_settings(tmp_path, FAKE_VLLM="stubborn")
    async with launched(settings, FakeRouter()) as task:
        await until(lambda: len(children()) >= 3)
        processes = children()
        began_at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(task, 10)
        assert time.monotonic() - began_at < 2.5
    await until(lambda: gone(processes))


async def test_one_failed_start_ends_all(tmp_path: Path) -> None:
    """The error explains; no engine is left running."""
    log = str(LOGS / "bad_flag.log")
    settings = fake_settings(tmp_path, num_replicas=2, FAKE_VLLM="die", FAKE_VLLM_LOG=log)
    async with launched(settings, FakeRouter()) as task:
        with pytest.raises(EngineStartError, match="unrecognized arguments: --no-such-flag"):
            await task
    await until(lambda: not children())


async def test_a_dead_engine_comes_back_at_its_url(tmp_path: Path) -> None:
    """The router keeps running meanwhile; the engine's other processes don't."""
    router = FakeRouter()
    async with launched(fake_settings(tmp_path), router) as task:
        await router.started.wait()
        (server,) = [p for p in children() if p.ppid() == os.getpid()]
        old = [server, *server.children(recursive=True)]
        server.kill()
        await until(lambda: gone(old))
        assert not task.done()
        await until(lambda: any(p.ppid() == os.getpid() for p in children()))
        deadline = time.monotonic() + 20
        while not await is_healthy(router.urls[0]):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        router.finish.set()
        await asyncio.wait_for(task, 20)


def test_backoff_doubles_up_to_its_cap_and_forgets_after_a_good_run() -> None:
    """A crash loop slows down; an engine that ran well is started again at once."""
    backoff = Backoff(first_s=1, most_s=5, good_run_s=100)
    assert [backoff.delay_s(ran_for_s=10) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.delay_s(ran_for_s=100) == 1
    assert backoff.delay_s(ran_for_s=0) == 2


def test_a_killed_launcher_leaves_no_engine(tmp_path: Path, fake_vllm_env: dict[str, str]) -> None:
    """Even `kill -9` of the launcher ends the engine, its core and the guard."""
    (tmp_path / "config.json").touch()
    config = tmp_path / "t.toml"
    config.write_text(f'[engine]\nmodel = "{tmp_path}"\nserved_name = "m"\nport = 0\n')
    kill_the_launcher_and_look(Program("up", *up_arguments(config), env=fake_vllm_env), 30)


@pytest.fixture
def real_stack() -> Iterator[Program]:
    """`r1-serve up` with the demo model on real vLLM."""
    model = os.environ.get("R1_TEST_MODEL")
    choice = ["--model", model, "--served-name", "r1-demo"] if model else []
    port = free_port("127.0.0.1")
    program = Program("up", *up_arguments(config_dir() / "cpu.toml", port), *choice)
    program.wait_for("Serving ", REAL_READY_S)
    try:
        yield program
    finally:
        program.close()


@pytest.mark.engine
def test_real_vllm_leaves_nothing_when_the_launcher_is_killed(real_stack: Program) -> None:
    """vLLM's engine core, which outlives its server otherwise, ends with the launcher."""
    kill_the_launcher_and_look(real_stack, REAL_READY_S)


@pytest.mark.engine
def test_real_stack_survives_its_engine_and_stops_with_status_0(real_stack: Program) -> None:
    """The engine is killed: 503 Not ready, a restart, ready again; then SIGTERM ends everything."""
    url = url_of(real_stack)
    (server,) = [p for p in psutil.Process(real_stack.process.pid).children()]
    assert wait_status(url + "/ready", 200, 10)
    old = [server, *server.children(recursive=True)]
    server.kill()
    assert wait_status(url + "/ready", 503, 20)
    reply = httpx.post(url + "/v1/chat/completions", json={"messages": [USER]}, timeout=10)
    assert reply.status_code == 503
    assert "retry-after" in reply.headers
    assert wait_status(url + "/ready", 200, REAL_READY_S)
    assert gone(old)
    reply = httpx.post(
        url + "/v1/chat/completions", json={"messages": [USER], "max_tokens": 8}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    processes = psutil.Process(real_stack.process.pid).children(recursive=True)
    assert real_stack.stop() == 0
    assert wait_until(lambda: gone(processes), 5)


USER = {"role": "user", "content": "1+1"}


def up_arguments(config: Path, port: int = 0) -> list[str]:
    return ["--config", str(config), "--port", str(port)]


def url_of(program: Program) -> str:
    return next(word for line in program.lines for word in line.split() if "http://" in word)


def kill_the_launcher_and_look(program: Program, ready_s: float) -> None:
    try:
        if not any("Serving " in line for line in program.lines):
            program.wait_for("Serving ", ready_s)
        processes = psutil.Process(program.process.pid).children(recursive=True)
        assert len(processes) >= 3
        program.process.kill()
        assert wait_until(lambda: gone(processes), 25)
    finally:
        program.close()


def wait_status(url: str, status: int, timeout_s: float) -> bool:
    def answers() -> bool:
        try:
            return httpx.get(url, timeout=5).status_code == status
        except httpx.TransportError:
            return False

    return wait_until(answers, timeout_s)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
