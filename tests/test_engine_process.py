"""Engine processes, over the stand-in for vLLM's program in tests/fake_vllm."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve.engine import EngineCommand
from serve.engine_faults import EngineStartError
from serve.engine_process import (
    EngineLog,
    EngineProcess,
    free_port,
    is_healthy,
    read_load,
)
from tests.support import eventually, gone

until = functools.partial(eventually, within_s=15)

FAKE = Path(__file__).parent / "fake_vllm"
LOGS = Path(__file__).parent / "data" / "engine_logs"
READY_S = 30.0


def fake_command(model: Path, port: int, **env: str) -> EngineCommand:
    (model / "config.json").touch()
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)]
    return EngineCommand(
        argv=(*argv, "--served-model-name", "m"),
        env={"PYTHONPATH": str(FAKE), "PYTHONUNBUFFERED": "1"} | env,
        url=f"http://127.0.0.1:{port}",
        model=str(model),
    )


@contextlib.asynccontextmanager
async def fake_engine(tmp_path: Path, **env: str) -> AsyncIterator[EngineProcess]:
    log = EngineLog(tmp_path / "logs" / "engine.log", lambda line: None)
    engine = EngineProcess(fake_command(tmp_path, free_port("127.0.0.1"), **env), log)
    try:
        yield engine
    finally:
        await engine.stop(0)
        log.close()


def processes_of(engine: EngineProcess) -> list[psutil.Process]:
    """Every process in the engine's session: the server, its core, the tether's guard."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == engine.pid:
                found.append(process)
    return found


async def test_starts_serves_and_stops(tmp_path: Path) -> None:
    """Ready means that it answers; after `stop` no process of it is left."""
    async with fake_engine(tmp_path) as engine:
        await engine.start()
        await engine.wait_ready(READY_S)
        assert await is_healthy(engine.command.url)
        processes = processes_of(engine)
        assert len(processes) >= 3
        await engine.stop(10)
        assert engine.returncode == 0
        await until(lambda: gone(processes))


async def test_the_log_is_kept_whole_and_tells_the_phase(tmp_path: Path) -> None:
    """Each line goes to the file; a progress bar's steps count as lines."""
    async with fake_engine(tmp_path) as engine:
        await engine.start()
        await engine.wait_ready(READY_S)
        text = engine.log.path.read_text()
        assert "Initializing a V1 LLM engine" in text
        assert "Loading safetensors: 0%" in list(engine.log.tail)
        assert engine.log.phase == "opening its port"


async def test_a_killed_server_leaves_no_core_behind(tmp_path: Path) -> None:
    """The core ignores SIGTERM and outlives its server; the tether ends it."""
    async with fake_engine(tmp_path) as engine:
        await engine.start()
        await engine.wait_ready(READY_S)
        processes = processes_of(engine)
        os.kill(engine.pid, signal.SIGKILL)
        assert await engine.wait() == -signal.SIGKILL
        await until(lambda: gone(processes))


async def test_a_stubborn_engine_is_killed(tmp_path: Path) -> None:
    """`stop` waits no longer than it was told to."""
    async with fake_engine(tmp_path, FAKE_VLLM="stubborn") as engine:
        await engine.start()
        await until(lambda: "Loading safetensors: 100%" in list(engine.log.tail))
        processes = processes_of(engine)
        async with asyncio.timeout(30):
            await engine.stop(0.3)
        assert engine.returncode == -signal.SIGKILL
        await until(lambda: gone(processes))


async def test_a_hurried_stop_waits_for_what_it_kills(tmp_path: Path) -> None:
    """Whoever hurries ends soon: the event loop must not close over a child that it watches."""
    async with fake_engine(tmp_path, FAKE_VLLM="stubborn") as engine:
        await engine.start()
        await until(lambda: "Loading safetensors: 100%" in list(engine.log.tail))
        processes = processes_of(engine)
        stopping = asyncio.create_task(engine.stop(30))
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert engine.returncode == -signal.SIGKILL
        await until(lambda: gone(processes))


async def test_cancelling_a_start_leaves_nothing(tmp_path: Path) -> None:
    """A start that is given up can be stopped at once."""
    async with fake_engine(tmp_path, FAKE_VLLM="silent") as engine:
        await engine.start()
        waiting = asyncio.create_task(engine.wait_ready(READY_S))
        await until(lambda: len(processes_of(engine)) >= 3)
        processes = processes_of(engine)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await engine.stop(3)
        await until(lambda: gone(processes))


async def test_a_failed_start_is_explained(tmp_path: Path) -> None:
    """The error says what vLLM's log says, and where the log is."""
    log = str(LOGS / "kv_cache_too_large.log")
    async with fake_engine(tmp_path, FAKE_VLLM="die", FAKE_VLLM_LOG=log) as engine:
        await engine.start()
        with pytest.raises(EngineStartError, match="Not enough memory") as failure:
            await engine.wait_ready(READY_S)
        assert str(engine.log.path) in str(failure.value)


async def test_a_start_that_takes_too_long_fails(tmp_path: Path) -> None:
    """The error tells what the engine was doing."""
    async with fake_engine(tmp_path, FAKE_VLLM="silent") as engine:
        await engine.start()
        with pytest.raises(EngineStartError, match="not ready after 1 s"):
            await engine.wait_ready(1)


async def test_a_taken_port_names_its_holder(tmp_path: Path) -> None:
    """Before anything starts: which port, which process, which program."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        log = EngineLog(tmp_path / "engine.log", lambda line: None)
        engine = EngineProcess(fake_command(tmp_path, port), log)
        with pytest.raises(EngineStartError) as failure:
            await engine.start()
        log.close()
    assert f"Port {port}" in str(failure.value)
    assert f"pid {os.getpid()}" in str(failure.value)


@pytest.mark.parametrize("name", ["missing", ""])
async def test_a_missing_model_fails_at_once(tmp_path: Path, name: str) -> None:
    """A directory that isn't there, or that holds no model, is told before vLLM is started."""
    async with fake_engine(tmp_path) as engine:
        model = tmp_path / name if name else tmp_path / "logs"
        command = EngineCommand(
            engine.command.argv, engine.command.env, engine.command.url, str(model)
        )
        with pytest.raises(EngineStartError, match="was not found") as failure:
            await EngineProcess(command, engine.log).start()
        assert str(model) in str(failure.value)
        assert "engine.model" in str(failure.value)


async def test_health_of_nobody_is_false() -> None:
    """A closed port is an engine that is not ready."""
    assert not await is_healthy(f"http://127.0.0.1:{free_port('127.0.0.1')}")


async def test_what_runs_on_an_engine_is_read_from_its_metrics() -> None:
    """Running and waiting; nothing where nobody answers."""
    async with StandInEngine(Options(max_num_seqs=1)) as engine:

        async def counts() -> tuple[int, int] | None:
            load = await read_load(engine.url)
            return load and (load.num_running, load.num_waiting)

        assert await counts() == (0, 0)
        async with httpx.AsyncClient(base_url=engine.url, timeout=30) as http:
            body = {"model": "stand-in", "prompt": "x", "max_tokens": 10_000}
            calls = [asyncio.create_task(http.post("/v1/completions", json=body)) for _ in "ab"]
            await until(lambda: len(engine.running) == 1 and len(engine.waiting) == 1)
            assert await counts() == (1, 1)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    assert await read_load(engine.url) is None
