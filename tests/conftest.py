"""Fixtures that several tests share: real vLLM once per run, and a stand-in for it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from serve.engine_process import free_port
from serve.settings import config_dir, load_settings

if TYPE_CHECKING:
    from tests.listening import Log, Receiver

ROOT = Path(__file__).parent.parent
R1_SERVE = [sys.executable, "-m", "serve"]
ENGINE_READY_S = 240.0

# vLLM 0.32 can't load what it compiles ahead of time for a CPU ("Compiling model again due to a
# load failure"): this way it finds its work again, and each start is 9 s shorter. The product
# doesn't: what comes out generates 15 % slower.
os.environ["VLLM_USE_AOT_COMPILE"] = "0"


# A machine that is busy for a moment has found no fault.
hypothesis.settings.register_profile(
    "r1-serve", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("r1-serve")

# What a script starts in the background ignores Ctrl-C, and what that starts does, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes one has the engine and all that asks for it; else files stay whole."""
    for item in items:
        asks = item.get_closest_marker("engine") and "engine" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("engine" if asks else item.location[0]))


@dataclass(frozen=True)
class RunningEngine:
    """A real vLLM server with the bundled demo model."""

    url: str
    model: str
    traces: Receiver
    """Of the spans that it makes of requests that are traced."""


class Program:
    """`r1-serve …` as a child process, its lines read as they come."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*R1_SERVE, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | (env or {}),
            process_group=0,
        )
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._new.put(line.rstrip())
        self._new.put(None)

    def wait_for(self, words: str, timeout_s: float) -> str:
        """The next line with `words` in it."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                line = self._new.get(timeout=left_s)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
            if words in line:
                return line
        pytest.fail(f"no {words!r} within {timeout_s} s in:\n" + "\n".join(self.lines))

    def log(self) -> str:
        """What it has said so far."""
        while not self._new.empty():
            self.lines.append(self._new.get() or "")
        return "\n".join(self.lines)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Signals the group, as a terminal or a service manager does, and returns the exit
        status."""
        os.killpg(self.process.pid, number)
        status = self.process.wait(timeout_s)
        self.close()
        return status

    def close(self) -> None:
        """Ends what a failed test left, and reads the rest of the output."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.log()
        if self.process.stderr:
            self.process.stderr.close()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """One real engine for the whole run, started by the product itself."""
    from tests.listening import receiving

    with receiving() as traces:
        config = tmp_path_factory.mktemp("engine") / "engine.toml"
        config.write_text(f'base = "cpu"\n[telemetry]\notlp_endpoint = "{traces.url}"\n')
        env = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        program = Program("engine", "--config", str(config), *_engine_arguments(), env=env)
        try:
            line = program.wait_for("Engine ready at ", ENGINE_READY_S)
            name = load_settings(config_dir() / "cpu.toml").engine.served_name
            yield RunningEngine(line.rpartition(" ")[2], name, traces)
            assert program.stop() == 0, "SIGTERM should end the engine with status 0"
        finally:
            program.close()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A pipe for an access log: `Worker(log_fd=log.write_fd)`. Lines come at once."""
    from tests.listening import Log

    monkeypatch.setattr("serve.access_log.GATHER_S", 0)
    log = Log()
    yield log
    log.close()


def _engine_arguments() -> list[str]:
    """A free port, and another model than the demo where `R1_TEST_MODEL` names one."""
    arguments = ["--port", str(free_port("127.0.0.1"))]
    if model := os.environ.get("R1_TEST_MODEL"):
        name = load_settings(config_dir() / "cpu.toml").engine.served_name
        arguments += ["--model", model, "--served-name", name]
    return arguments


@pytest.fixture
def fake_vllm_env() -> dict[str, str]:
    """An environment in which `vllm` is the stand-in, found before an installed one."""
    return {"PYTHONPATH": str(ROOT / "tests" / "fake_vllm")}
