"""What tests of `r1-serve up` share: stand-ins for vLLM and for the router, and load."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import psutil

from serve.console import Console
from serve.engine import Machine
from serve.engine_faults import EngineStartError
from serve.engine_process import is_healthy
from serve.launch import RunRouter, up
from serve.rolling import Read
from serve.settings import EngineSettings, ServerSettings, Settings, SettingsError
from tests.conftest import R1_SERVE, ROOT, Program

CPU = Machine(device="cpu", vllm_version="0.32.0")
FAKE_PATH = str(ROOT / "tests" / "fake_vllm")
USER = {"role": "user", "content": "1+1"}


def fake_settings(tmp_path: Path, num_replicas: int = 1, port: int = 0, **env: str) -> Settings:
    (tmp_path / "config.json").touch()
    engine = EngineSettings(
        model=str(tmp_path),
        served_name="m",
        num_replicas=num_replicas,
        port=port,
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
        self.file = Path()
        self.urls: list[str] = []
        self.healthy_at_end: list[bool] = []

    async def __call__(self, settings: Settings, on_started: Callable[[str], None]) -> None:
        self.file = Path(settings.router.engine_file or "")
        self.urls = self.named()
        self.started.set()
        on_started("http://127.0.0.1:9")
        await self.finish.wait()
        self.healthy_at_end = [await is_healthy(url) for url in self.urls]

    def named(self) -> list[str]:
        """The engines that it should use now."""
        return self.file.read_text().split()


@contextlib.asynccontextmanager
async def launched(
    settings: Settings,
    router: RunRouter,
    reload: Read | None = None,
    told: io.StringIO | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(up(settings, CPU, Console(told or io.StringIO()), router, reload))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartError, SettingsError):
            await task


def engine_pids(program: Program) -> set[int]:
    found = psutil.Process(program.process.pid).children()
    return {process.pid for process in found if "--port" in command_of(process)}


def command_of(process: psutil.Process) -> str:
    """Empty where it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Stack:
    """`r1-serve up` over stand-ins for vLLM, two router processes before them."""

    def __init__(self, program: Program, config: Path, env: dict[str, str]) -> None:
        self.program = program
        self.url = url_of(program)
        self._config = config
        self._env = env

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`r1-serve …` with the stack's settings."""
        return subprocess.run(
            [*R1_SERVE, *arguments, "--config", str(self._config)],
            env=os.environ | self._env,
            cwd=ROOT,
            timeout=120,
            check=False,
            capture_output=True,
            text=True,
        )


@contextlib.contextmanager
def running_stack(
    tmp_path: Path, env: dict[str, str], num_replicas: int, more: str = ""
) -> Iterator[Stack]:
    """Ready; `env` is where it finds the stand-ins, `more` what else the settings say, first of
    the engines."""
    (tmp_path / "config.json").touch()
    config = tmp_path / "t.toml"
    config.write_text(
        '[server]\nworkers = 2\n[router]\nbalancing = "least_loaded"\n'
        f'[engine]\nmodel = "{tmp_path}"\nserved_name = "m"\n'
        f'port = 0\nnum_replicas = {num_replicas}\nlog_dir = "logs"\n{more}'
    )
    program = Program("up", *up_arguments(config), env=env)
    try:
        program.wait_for("Serving ", 60)
        stack = Stack(program, config, env)
        assert wait_status(stack.url + "/ready", 200, 20)
        yield stack
    finally:
        program.close()


@contextlib.contextmanager
def chatting(url: str, num_clients: int = 6) -> Iterator[list[str]]:
    """Clients that chat one after the other until left; what became of each chat."""
    outcomes: list[str] = []
    stop = threading.Event()

    def chat(client: httpx.Client, stream: bool) -> str:
        body = {"messages": [USER], "stream": stream}
        try:
            reply = client.post(url + "/v1/chat/completions", json=body)
        except httpx.HTTPError as exc:
            return repr(exc)
        whole = not stream or reply.text.endswith("data: [DONE]\n\n")
        return "ok" if reply.status_code == 200 and whole else reply.text[-300:]

    def run(stream: bool) -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                outcomes.append(chat(client, stream))

    threads = [threading.Thread(target=run, args=(n % 2 == 0,)) for n in range(num_clients)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def num_served(url: str) -> int:
    """Requests that the engine has had."""
    return int(httpx.get(url + "/stand_in/state").json()["num_requests"])


def up_arguments(config: Path, port: int = 0) -> list[str]:
    return ["--config", str(config), "--port", str(port)]


def url_of(program: Program) -> str:
    (line,) = [line for line in program.lines if "Serving " in line]
    return next(word for word in line.split() if "http://" in word)


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
