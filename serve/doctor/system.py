"""What the operating system tells of a set-up: ports, memory, directories, who runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from serve.doctor.findings import MIB
from serve.doctor.model import ModelFacts, cache_home, hub_cache
from serve.engine_faults import EngineStartError
from serve.engine_keeper import log_dir
from serve.engine_process import Listener, check_port, listener
from serve.running import NotRunning, find
from serve.settings import EngineSettings, Settings

SHM = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")
SMALL_FILES_BYTES = 64 * MIB
COMPILED_BYTES = 256 * MIB
"""What vLLM compiles for one model, with room to spare."""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that is written to. `path` is it, or the nearest one above that is there."""

    what: str
    path: Path
    needed_bytes: int
    free_bytes: int
    is_writable: bool


@dataclass(frozen=True, slots=True)
class PortUse:
    setting: str
    port: int
    fault: str | None = None
    """Why nobody else can listen on it."""
    is_ours: bool = False
    """A running r1-serve has it."""


def running_pid(engine: EngineSettings, port: int) -> int | None:
    """Of the `r1-serve up` that runs with these settings."""
    try:
        return find(log_dir(engine), port).pid
    except (NotRunning, OSError):
        return None


def ports(
    settings: Settings, num_engines: int, running: int | None, *, router_alone: bool
) -> Iterator[PortUse]:
    """The router's, and those of so many engines on this machine. Port 0 is none yet. Ours is what
    the `up` with the pid `running` holds; of a router alone, which nothing registers, what one
    listens on."""
    server, engine = settings.server, settings.engine
    family = _family(running)

    def is_family(holder: Listener) -> bool:
        return holder.pid in family

    def is_ours(holder: Listener) -> bool:
        return is_family(holder) or (router_alone and _is_router(holder))

    if server.port:
        yield _port_use("server.port", server.host, server.port, is_ours)
    if engine.port and engine.backend == "local":
        for port in range(engine.port, engine.port + num_engines):
            yield _port_use("engine.port", engine.host, port, is_family)


def _port_use(setting: str, host: str, port: int, is_ours: Callable[[Listener], bool]) -> PortUse:
    try:
        check_port(host, port, setting)
    except EngineStartError as exc:
        holder = listener(port)
        return PortUse(setting, port, exc.fault.summary, holder is not None and is_ours(holder))
    except OverflowError:
        return PortUse(setting, port, f"There is no port {port}.")
    return PortUse(setting, port)


def _family(pid: int | None) -> frozenset[int]:
    """The process and all that it started."""
    if pid is None:
        return frozenset()
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        children = []
    return frozenset([pid, *(child.pid for child in children)])


def _is_router(holder: Listener) -> bool:
    """By its command: `r1-serve router`, `python -m serve router`, or one of its workers."""
    words = holder.command.split()
    program = any(Path(word).name in ("r1-serve", "serve") for word in words)
    return program and not {"router", "worker"}.isdisjoint(words)


def find_compiler(env: Mapping[str, str]) -> str | None:
    """The C++ compiler that torch calls (its _inductor/config.py, `cpp.cxx`)."""
    return shutil.which(env.get("CXX") or "g++", path=env.get("PATH"))


def free_memory_bytes() -> int:
    """Of the machine, or of this container where that has less (cgroup v2)."""
    free: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit is the word `max`
        return free
    return max(0, min(free, limit - used + int(stat.get("inactive_file", 0))))


def free_shm_bytes() -> int | None:
    return shutil.disk_usage(SHM).free if SHM.is_dir() else None


def places(engine: EngineSettings, model: ModelFacts, env: Mapping[str, str]) -> Iterator[Place]:
    """`env` is the environment that the engines will have."""
    yield _place("the engines' logs (engine.log_dir)", log_dir(engine), SMALL_FILES_BYTES)
    yield _place("temporary files (TMPDIR)", Path(env.get("TMPDIR") or "/tmp"), SMALL_FILES_BYTES)
    if not engine.enforce_eager:
        compiled = Path(env.get("VLLM_CACHE_ROOT") or cache_home(env) / "vllm")
        yield _place("what vLLM compiles (VLLM_CACHE_ROOT)", compiled, COMPILED_BYTES)
    if model.directory is None and model.is_repository and model.may_download:
        needed = model.shape.weights_bytes if model.shape else SMALL_FILES_BYTES
        yield _place("the model's download (HF_HOME)", hub_cache(env), needed)


def _place(what: str, path: Path, needed_bytes: int) -> Place:
    there = path.absolute()
    while not os.path.exists(there):  # unlike Path.exists, no error where it may not look
        there = there.parent
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Place(what, there, needed_bytes, shutil.disk_usage(there).free, writable)
