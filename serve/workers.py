"""Several router processes on one port (SO_REUSEPORT), kept by this one: start, restart, drain.

A worker is `r1-serve worker`. Its standard input brings its `Assignment` and stays open: when that
ends, this process is gone and the worker ends too. Its standard output says when it listens. Each
leads its own session, so that a terminal's Ctrl-C reaches it once, through this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from serve.access_log import standard_output
from serve.file_limit import raise_file_limit
from serve.router import build_app
from serve.server import LAST_WORDS_S, ServerError, bind, spare_collector, url_of
from serve.server import run as run_server
from serve.settings import Settings
from serve.shared_metrics import forget_readings, share_metrics
from serve.supervise import Backoff, StopSignals, until_stopped
from serve.worker import Worker

log = logging.getLogger(__name__)

READY = b"ready\n"
FIRST_RESTART_S = 0.25
STOP_MARGIN_S = LAST_WORDS_S + 5.0


class Assignment(msgspec.Struct, frozen=True):
    """What a worker is told; its port is never 0."""

    settings: Settings
    worker: Worker


async def run(settings: Settings, *, on_started: Callable[[str], None]) -> None:
    """Serves with `server.workers` processes until cancelled, then lets them drain; one more cancel
    hurries them. `on_started` gets the URL once all of them listen. SIGHUP reaches each.

    Raises `ServerError` where the port is taken or a worker can't start.
    """
    server = settings.server
    with (
        contextlib.closing(reserve(server.host, server.port)) as reserved,
        tempfile.TemporaryDirectory(prefix="r1-serve-") as directory,
        _log_fd(settings) as log_fd,
    ):
        server = msgspec.structs.replace(server, port=reserved.getsockname()[1])
        settings = msgspec.structs.replace(settings, server=server)
        keepers = [
            WorkerKeeper(Assignment(settings, Worker(index, server.workers, directory, log_fd)))
            for index in range(server.workers)
        ]
        try:
            with _passing_on_sighup(keepers):
                await asyncio.gather(*(keeper.start() for keeper in keepers))
                on_started(url_of(reserved))
                await asyncio.gather(*(keeper.keep() for keeper in keepers))
        finally:
            await drain_all(keepers, server.drain_timeout_s)


class WorkerKeeper:
    """Keeps one worker running."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._worker = assignment.worker
        self._backoff = Backoff(first_s=FIRST_RESTART_S)
        self._process: Process | None = None
        self._started_at = 0.0
        self._listens = False

    async def start(self) -> None:
        """Returns when the worker listens. Raises `ServerError` when it ends before."""
        self._started_at = time.monotonic()
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serve", "worker"),
            stdin=PIPE,
            stdout=PIPE,
            env=os.environ | _own_code(),
            start_new_session=True,
            pass_fds=() if self._worker.log_fd is None else (self._worker.log_fd,),
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        process.stdin.write(msgspec.json.encode(self._assignment) + b"\n")
        if await process.stdout.readline() != READY:
            status = await process.wait()
            raise ServerError(f"worker {self._worker.index} did not start: status {status}")
        self._listens = True

    async def keep(self) -> None:
        """Starts the worker again whenever it has ended; runs until cancelled."""
        while self._process is not None:
            status = await self._process.wait()
            self._listens = False
            forget_readings(self._worker)
            delay_s = self._backoff.delay_s(time.monotonic() - self._started_at)
            log.error(
                "worker %d ended (status %d). Restart in %.2g s.",
                *(self._worker.index, status, delay_s),
            )
            await asyncio.sleep(delay_s)
            with contextlib.suppress(ServerError):  # it has said why, and ended again
                await self.start()

    async def ended(self) -> None:
        if self._process is not None:
            await self._process.wait()

    def signal(self, number: int) -> None:
        """One that still starts can't take signals yet: it is ended, where it should end."""
        if self._process is None or self._process.returncode is not None:
            return
        if self._listens:
            self._process.send_signal(number)
        elif number in (signal.SIGTERM, signal.SIGKILL):
            self._process.kill()


async def drain_all(keepers: Sequence[WorkerKeeper], drain_timeout_s: float) -> None:
    """Returns when every worker has ended; cancelling hurries them."""
    endings = [asyncio.create_task(keeper.ended()) for keeper in keepers]
    try:
        _signal_all(keepers, signal.SIGTERM)
        await asyncio.wait(endings, timeout=drain_timeout_s + STOP_MARGIN_S)
    finally:
        _signal_all(keepers, signal.SIGTERM)
        await asyncio.wait(endings, timeout=STOP_MARGIN_S)
        _signal_all(keepers, signal.SIGKILL)
        await asyncio.wait(endings)


def _signal_all(keepers: Sequence[WorkerKeeper], number: int) -> None:
    for keeper in keepers:
        keeper.signal(number)


@contextlib.contextmanager
def _passing_on_sighup(keepers: Sequence[WorkerKeeper]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, _signal_all, keepers, signal.SIGHUP)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def reserve(host: str, port: int) -> socket.socket:
    """Holds the port for the workers to share. Raises `ServerError` where another program has it,
    even one that would share it."""
    with contextlib.closing(bind(host, port)) as alone:
        port = alone.getsockname()[1]
    return bind(host, port, shared=True)


@contextlib.contextmanager
def _log_fd(settings: Settings) -> Iterator[int | None]:
    """Our standard output for the workers to inherit, where the access log goes. Raises
    `SettingsError`."""
    if not settings.telemetry.access_log:
        yield None
        return
    fd = os.dup(standard_output())
    try:
        yield fd
    finally:
        os.close(fd)


def _own_code() -> dict[str, str]:
    """The environment in which `-m serve` is this very package, whatever the current directory."""
    package_root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def read_assignment() -> Assignment | None:
    """What standard input brings; None where the parent is gone already."""
    line = sys.stdin.buffer.readline()
    return msgspec.json.decode(line, type=Assignment) if line else None


async def work(assignment: Assignment) -> None:
    """A worker's life: until SIGTERM (drain) or its parent's end (drain in a hurry)."""
    share_metrics(assignment.worker)
    app = build_app(assignment.settings, assignment.worker)
    spare_collector()
    raise_file_limit()
    signals = StopSignals()
    server = assignment.settings.server
    with signals.installed(), _watching_parent(signals, assignment.worker.directory or ""):
        serving = run_server(app, server, on_started=_say_ready, shared=True)
        await until_stopped(serving, signals)


def _say_ready(url: str) -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def _watching_parent(signals: StopSignals, directory: str) -> Iterator[None]:
    """Ends this worker with its parent. `directory` is the workers' scratch directory."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    orphaned = asyncio.Event()

    def on_readable() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            signals.stop.set()
            signals.hurry.set()
            orphaned.set()

    loop.add_reader(stdin, on_readable)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        if orphaned.is_set():  # who made the directory can't remove it any more
            shutil.rmtree(directory, ignore_errors=True)
