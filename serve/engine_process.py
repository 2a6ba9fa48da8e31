"""One engine as a child process: start, follow its log, wait until it serves, stop, leave nothing.

The child leads its own session and is tied to this process (`serve.tether`): the terminal's Ctrl-C
doesn't reach it, and its whole group can be ended. What to run comes from `serve.engine`; why a
start failed is told by `serve.engine_faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import psutil

from serve.engine import EngineCommand, is_local
from serve.engine_faults import EngineStartError, Fault, explain
from serve.load import EngineLoad, parse_load
from serve.tether import tethered

HEALTH_POLL_S = 0.25
HEALTH_TIMEOUT_S = 5.0
NUM_TAIL_LINES = 400
"""Enough for the tracebacks of vLLM's processes, which say the cause first."""
KILL_WAIT_S = 5.0

FIRST_PHASE = "importing vLLM"
_PHASES = (
    ("non-default args", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine core"),
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "preparing"),
    ("Dynamo bytecode transform", "compiling"),
    ("Compiling a graph", "compiling"),
    ("Warming up", "compiling"),
    ("KV cache size", "warming up"),
    ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ("Starting vLLM server", "opening its port"),
)
"""Words in vLLM's log → what it is doing from there on."""


class EngineLog:
    """An engine's output: the whole in a file, the last lines at hand, and the phase it tells."""

    def __init__(self, path: Path, echo: Callable[[str], None]) -> None:
        """`echo` gets every line, without its line end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.phase = FIRST_PHASE
        self.tail: deque[str] = deque(maxlen=NUM_TAIL_LINES)
        self.echoes = True
        """False keeps the lines to the file: vLLM's own shutdown logs errors that are none."""
        self._echo = echo
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)

    def begin(self, argv: Sequence[str]) -> None:
        """A new start: what earlier ones said explains nothing any more."""
        self.tail.clear()
        self.phase = FIRST_PHASE
        self.write("$ " + " ".join(argv))

    def write(self, line: str) -> None:
        self.tail.append(line)
        self._file.write(line + "\n")
        for words, phase in _PHASES:
            if words in line:
                self.phase = phase
        if self.echoes:
            self._echo(line)

    def close(self) -> None:
        self._file.close()


class EngineProcess:
    """A running engine. Make one for each start; a stopped one is not started again."""

    def __init__(self, command: EngineCommand, log: EngineLog) -> None:
        self.command = command
        self.log = log
        self.started_at = time.monotonic()
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the engine was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Raises `EngineStartError` where it is plain beforehand that the start must fail."""
        check_start(self.command)
        self.log.begin(self.command.argv)
        self._process = await asyncio.create_subprocess_exec(
            *tethered(*self.command.argv),
            stdin=PIPE,  # held open until this process ends: the tether
            stdout=PIPE,
            stderr=STDOUT,
            env=os.environ | dict(self.command.env),
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._follow(self._process))

    async def _follow(self, process: Process) -> None:
        """Copies the output line by line; a progress bar's carriage returns end lines as well."""
        if process.stdout is None:
            return
        rest = ""
        while data := await process.stdout.read(65536):
            text = rest + data.decode(errors="replace").replace("\r", "\n")
            *lines, rest = text.split("\n")
            for line in lines:
                if line.strip():
                    self.log.write(line.rstrip())
        if rest.strip():
            self.log.write(rest.rstrip())

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns once `/health` answers 200. Raises `EngineStartError`; cancelling is safe."""
        deadline = time.monotonic() + timeout_s
        while not await is_healthy(self.command.url):
            if self.returncode is not None:
                raise await self._start_error()
            if time.monotonic() > deadline:
                fault = Fault(
                    f"The engine was not ready after {timeout_s:.0f} s (it was {self.log.phase}).",
                    "If it only needs longer, raise `engine.startup_timeout_s`.",
                )
                raise EngineStartError(fault, str(self.log.path))
            await asyncio.sleep(HEALTH_POLL_S)

    async def _start_error(self) -> EngineStartError:
        await self._drain_log()
        fault = explain(list(self.log.tail), self.returncode, self.command.model)
        return EngineStartError(fault, str(self.log.path))

    async def wait(self) -> int:
        """The exit status, once the engine has ended by itself or by `stop`."""
        if self._process is None:
            raise RuntimeError("the engine was not started")
        status = await self._process.wait()
        await self._drain_log()
        return status

    async def stop(self, timeout_s: float) -> None:
        """Lets running requests finish for up to `timeout_s`, then kills. Cancelling kills at once.

        The signal goes to the server alone: it tells its own processes (vLLM aborts everything when
        the whole group is signalled). Returns when no process of the engine is left.
        """
        if self._process is None or self._ended:
            return
        self._ended = True
        try:
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(timeout_s):
                    await self._process.wait()
        except TimeoutError:
            self.log.write(f"r1-serve: still running after {timeout_s:.0f} s; killing it")
        finally:
            self._kill_group()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_WAIT_S):
                    await self._process.wait()
        await self._drain_log()

    def _kill_group(self) -> None:
        """Ends what the server left behind, the tether's guard included."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _drain_log(self) -> None:
        """Reads the output to its end, which comes when the last process holding it is gone."""
        if self._reader is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_WAIT_S):
                    await asyncio.shield(self._reader)


async def is_healthy(url: str) -> bool:
    """Whether `GET /health` answers 200."""
    return await get(url, "/health") is not None


async def read_load(url: str) -> EngineLoad | None:
    """What runs and waits on the engine, as it tells; None where it doesn't."""
    metrics = await get(url, "/metrics")
    return None if metrics is None else parse_load(metrics)


async def get(url: str, path: str) -> bytes | None:
    """All that comes after the status line; None where the status isn't 200."""
    address = urlsplit(url)
    request = f"GET {path} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n".encode()
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(request)
                status = await reader.readline()
                good = status.split()[1:2] == [b"200"]
                return await reader.read() if good else None
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


def check_start(command: EngineCommand) -> None:
    """Raises `EngineStartError` for faults that need no start to be seen."""
    model = Path(command.model)
    if is_local(command.model) and not (model / "config.json").is_file():
        what = "has no config.json" if model.is_dir() else "is not there"
        raise EngineStartError(explain([f"{_NOT_A_MODEL}: {model} {what}"], None, command.model))
    address = urlsplit(command.url)
    check_port(address.hostname or "127.0.0.1", address.port or 0, "engine.port")


_NOT_A_MODEL = "Invalid repository ID or local directory"


def check_port(host: str, port: int, setting: str) -> None:
    """Raises `EngineStartError` that names who listens on the port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            taken = f"Port {port} on {host} can't be used ({exc.strerror}){port_holder(port)}."
            remedy = f"Stop that program, or set another port (`{setting}`)."
            raise EngineStartError(Fault(taken, remedy)) from exc


def port_holder(port: int) -> str:
    """ ": pid 12 (nginx: master) has it", or nothing where the system doesn't tell."""
    holder = listener(port)
    return f": pid {holder.pid} ({holder.command[:80]}) has it" if holder else ""


@dataclass(frozen=True, slots=True)
class Listener:
    pid: int
    command: str


def listener(port: int) -> Listener | None:
    """Who listens on the port of any address; None where nobody does or the system doesn't tell."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            address, pid = connection.laddr, connection.pid
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and pid:
                return Listener(pid, " ".join(psutil.Process(pid).cmdline()))
    return None


def free_port(host: str) -> int:
    """A port that nothing listens on now. Another program may take it before the engine does."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
