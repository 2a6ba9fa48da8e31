"""The life of one machine: over the stand-in for vLLM, and once over real vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from serve.engine import Machine
from serve.engine_faults import EngineStartError
from serve.engine_process import free_port, is_healthy
from serve.settings import Settings, SettingsError, config_dir
from tests.conftest import ROOT, Program
from tests.stack import (
    CPU,
    USER,
    FakeRouter,
    chatting,
    engine_pids,
    fake_settings,
    launched,
    running_stack,
    up_arguments,
    url_of,
    wait_status,
    wait_until,
)
from tests.support import eventually, gone

LOGS = ROOT / "tests" / "data" / "engine_logs"
REAL_READY_S = 240.0


OTHERS: set[psutil.Process] = set()
"""Processes that were there before the test: the engine that the whole run shares."""


@pytest.fixture(autouse=True)
def _mark_others() -> None:
    OTHERS.clear()
    OTHERS.update(psutil.Process().children(recursive=True))


def children() -> list[psutil.Process]:
    found = set(psutil.Process().children(recursive=True)) - OTHERS
    return [process for process in found if not gone([process])]


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
    await eventually(lambda: gone(processes))


async def test_a_signal_during_start_up_stops_cleanly(tmp_path: Path) -> None:
    """SIGTERM while an engine loads: no error, no wait, nothing left."""
    router = FakeRouter()
    async with launched(fake_settings(tmp_path, FAKE_VLLM="silent"), router) as task:
        await eventually(lambda: len(children()) >= 3)
        processes = children()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 10)
    assert not router.started.is_set()
    await eventually(lambda: gone(processes))


async def test_a_second_signal_hurries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that won't stop is killed when asked again, long before its time is over."""
    monkeypatch.setattr("serve.engine_keeper.STARTUP_STOP_S", 60.0)
    settings = fake_settings(tmp_path, FAKE_VLLM="stubborn")
    async with launched(settings, FakeRouter()) as task:
        await eventually(lambda: len(children()) >= 3)
        processes = children()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(task, 30)
    await eventually(lambda: gone(processes))


async def test_one_failed_start_ends_all(tmp_path: Path) -> None:
    """The error explains; no engine is left running."""
    log = str(LOGS / "bad_flag.log")
    settings = fake_settings(tmp_path, num_replicas=2, FAKE_VLLM="die", FAKE_VLLM_LOG=log)
    async with launched(settings, FakeRouter()) as task:
        with pytest.raises(EngineStartError, match="unrecognized arguments: --no-such-flag"):
            await task
    await eventually(lambda: not children())


async def test_a_dead_engine_comes_back_at_its_url(tmp_path: Path) -> None:
    """The router keeps running meanwhile; the engine's other processes don't."""
    router = FakeRouter()
    async with launched(fake_settings(tmp_path), router) as task:
        await router.started.wait()
        (server,) = servers().values()
        old = [server, *server.children(recursive=True)]
        server.kill()
        await eventually(lambda: gone(old))
        assert not task.done()
        await eventually(lambda: bool(servers()))
        await eventually(lambda: is_healthy(router.urls[0]))
        router.finish.set()
        await asyncio.wait_for(task, 20)


def servers() -> dict[int, psutil.Process]:
    """The engines' servers by port."""
    found = {}
    for process in children():
        with contextlib.suppress(psutil.Error):
            if process.ppid() == os.getpid() and "--port" in (line := process.cmdline()):
                found[int(line[line.index("--port") + 1])] = process
    return found


def restart_engines() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody to wait for: the router that reads the file is a stand-in."""
    monkeypatch.setattr("serve.fleet.NOTICE_S", 1.0)
    monkeypatch.setattr("serve.rolling.SETTLE_S", 1.0)


@pytest.mark.usefixtures("_quick")
async def test_a_rolling_restart_takes_one_engine_at_a_time_out_of_the_file(
    tmp_path: Path,
) -> None:
    """Each is out of rotation before its end and back when it serves; a second signal meanwhile
    changes nothing; the new settings are used."""
    router, told = FakeRouter(), io.StringIO()
    settings = fake_settings(tmp_path, num_replicas=2)
    engine = msgspec.structs.replace(settings.engine, served_name="n")
    renewed = msgspec.structs.replace(settings, engine=engine)
    async with launched(settings, router, lambda: (renewed, CPU), told) as task:
        await router.started.wait()
        first, second = router.urls
        old = servers()
        seen = [router.named()]
        restart_engines()
        await asyncio.sleep(0)
        restart_engines()
        deadline = time.monotonic() + 60
        while "All engines are restarted." not in told.getvalue():
            assert time.monotonic() < deadline
            named = router.named()
            if named != seen[-1]:
                seen.append(named)
            for url in named:
                assert await is_healthy(url)
            assert not task.done()
            await asyncio.sleep(0.02)
        assert seen == [[first, second], [second], [first, second], [first], [first, second]]
        assert told.getvalue().count("already") == 1
        new = servers()
        assert new.keys() == old.keys()
        assert not {process.pid for process in new.values()} & {p.pid for p in old.values()}
        assert all("n" in process.cmdline() for process in new.values())
        router.finish.set()
        await asyncio.wait_for(task, 20)


@pytest.mark.usefixtures("_quick")
async def test_an_engine_that_does_not_come_back_stops_the_rolling_restart(tmp_path: Path) -> None:
    """The other engine is left alone, and the broken one comes back with the old settings."""
    router, told = FakeRouter(), io.StringIO()
    settings = fake_settings(tmp_path, num_replicas=2)
    log = str(LOGS / "bad_flag.log")
    broken = fake_settings(tmp_path, 2, FAKE_VLLM="die", FAKE_VLLM_LOG=log)
    async with launched(settings, router, lambda: (broken, CPU), told) as task:
        await router.started.wait()
        first, second = router.urls
        old = servers()
        restart_engines()
        await eventually(lambda: "The restart stops here" in told.getvalue())
        assert "unrecognized arguments: --no-such-flag" in told.getvalue()
        assert router.named() == [first, second]
        await eventually(lambda: is_healthy(first))
        port = int(second.rpartition(":")[2])
        assert servers()[port].pid == old[port].pid
        router.finish.set()
        await asyncio.wait_for(task, 20)


async def test_broken_settings_restart_nothing(tmp_path: Path) -> None:
    """They are reported, and every engine stays as it is."""
    router, told = FakeRouter(), io.StringIO()

    def broken() -> tuple[Settings, Machine]:
        raise SettingsError("t.toml: unknown field `x`")

    async with launched(fake_settings(tmp_path), router, broken, told) as task:
        await router.started.wait()
        old = servers()
        restart_engines()
        await eventually(lambda: "No engine is restarted: t.toml" in told.getvalue())
        assert servers() == old
        router.finish.set()
        await asyncio.wait_for(task, 20)


def test_a_rolling_restart_under_load_fails_no_request(
    tmp_path: Path, fake_vllm_env: dict[str, str]
) -> None:
    """Two engines, two router processes, whole and streamed chats all the while; asked for by
    `r1-serve restart`. Every chat is answered, and both engines are new."""
    with running_stack(tmp_path, fake_vllm_env, 2) as stack:
        program = stack.program
        old = engine_pids(program)
        with chatting(stack.url) as outcomes:
            assert wait_until(lambda: len(outcomes) > 20, 20)
            done = stack.command("restart")
            assert done.returncode == 0, done.stderr
            assert f"pid {program.process.pid}" in done.stdout
            program.wait_for("All engines are restarted.", 60)
            enough = len(outcomes) + 20
            assert wait_until(lambda: len(outcomes) > enough, 20)
        assert set(outcomes) == {"ok"}, [it for it in outcomes if it != "ok"][:3]
        assert len(engine_pids(program)) == 2
        assert not engine_pids(program) & old
        assert program.stop() == 0


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
def test_a_real_stack_survives_its_engine_and_leaves_nothing_when_killed(
    real_stack: Program,
) -> None:
    """The engine is killed: 503 Not ready, a restart, ready again. Then the launcher is: vLLM's
    engine core, which outlives its server otherwise, ends as well."""
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
    kill_the_launcher_and_look(real_stack, REAL_READY_S)


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


async def test_ray_that_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How to install it, and no traceback."""
    monkeypatch.setitem(sys.modules, "ray", None)
    settings = fake_settings(tmp_path)
    engine = msgspec.structs.replace(settings.engine, backend="ray")
    async with launched(msgspec.structs.replace(settings, engine=engine), FakeRouter()) as task:
        with pytest.raises(SettingsError, match=r'needs Ray, .*pip install "r1-serve\[ray\]"'):
            await task
