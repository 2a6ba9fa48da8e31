"""Which `r1-serve up` run here: a file for each in the log directory, so that `r1-serve restart`
and others find the process to signal and the socket to ask at."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil


class NotRunning(RuntimeError):
    """There is no such process, or more than one."""


class Running(msgspec.Struct, frozen=True):
    pid: int
    started_at: float
    """As the system tells it, in seconds since 1970: a pid may be another's by now."""
    port: int
    """The router's, as it was set."""
    control: str
    """Path of the socket that `serve.control` answers at."""


@contextlib.contextmanager
def registered(directory: Path, port: int, control: Path) -> Iterator[None]:
    """While inside, this process can be found."""
    pid = os.getpid()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"up-{pid}.json"
    running = Running(pid, psutil.Process(pid).create_time(), port, str(control))
    path.write_bytes(msgspec.json.encode(running))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find(directory: Path, port: int | None = None) -> Running:
    """The one that runs, on `port` if given. Raises `NotRunning`."""
    found = [running for path in directory.glob("up-*.json") if (running := _read(path))]
    chosen = [running for running in found if port in (None, running.port)]
    if not chosen:
        where = "" if port is None else f" with port {port}"
        raise NotRunning(f"no running `r1-serve up`{where} is known in {directory}")
    if len(chosen) > 1:
        ports = ", ".join(str(running.port) for running in chosen)
        raise NotRunning(f"several `r1-serve up` are running (ports {ports}); say which: --port")
    return chosen[0]


def _read(path: Path) -> Running | None:
    """None where the process is gone or isn't ours: a signal meant for it would hit another."""
    try:
        if path.stat().st_uid != os.getuid():
            return None
        running = msgspec.json.decode(path.read_bytes(), type=Running)
        alive = abs(psutil.Process(running.pid).create_time() - running.started_at) < 1
    except (OSError, msgspec.DecodeError, psutil.Error):
        return None
    return running if alive else None
