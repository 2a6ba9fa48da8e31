"""The life of one machine: engines up → ready → router → supervise → drain.

Order matters at the end: the router stops taking requests and lets the open ones finish, and only
then do the engines get their signal. Engines are children of this process and end with it, whatever
ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from serve.console import Console
from serve.engine import Machine, engine_command
from serve.engine_faults import EngineStartError, explain
from serve.engine_keeper import EngineKeeper
from serve.engine_process import EngineLog, check_port, free_port
from serve.rolling import Plan, RollingRestart, Rotation
from serve.running import registered
from serve.settings import EngineSettings, Settings
from serve.supervise import StopSignals, first_of, until_stopped

RunRouter = Callable[[Settings], Awaitable[None]]
"""Serves until cancelled and ends after the drain; one more cancel hurries it."""

Reload = Callable[[], tuple[Settings, Machine]]
"""Reads the settings again, and what is installed. Raises `SettingsError`."""


async def up(
    settings: Settings,
    machine: Machine,
    console: Console,
    run_router: RunRouter,
    reload: Reload | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; returns when nothing of it is left running. SIGUSR1 restarts
    the engines one by one, with what `reload` gives then.

    Raises `EngineStartError`, and `SettingsError` where the settings don't fit the machine.
    """
    if settings.server.port:
        check_port(settings.server.host, settings.server.port, "server.port")
    keepers = make_keepers(settings, machine, console)
    signals = StopSignals()
    read = reload or (lambda: (settings, machine))
    with (
        signals.installed(),
        registered(log_dir(settings.engine), settings.server.port),
        tempfile.TemporaryDirectory(prefix="r1-serve-") as directory,
    ):
        rotation = Rotation(Path(directory, "engines"))
        rolling = RollingRestart(keepers, rotation, lambda: plan(read, keepers), console)
        with rolling.on_signal(signals):
            try:
                if await until_stopped(start_all(keepers, console), signals):
                    serving = serve_over(settings, rotation, rolling, run_router)
                    await until_stopped(serving, signals)
            finally:
                await stop_all(keepers, signals, console)


async def serve_over(
    settings: Settings, rotation: Rotation, rolling: RollingRestart, run_router: RunRouter
) -> None:
    """Runs the router over the engines and keeps these alive meanwhile."""
    rotation.write(keeper.command.url for keeper in rolling.keepers)
    for keeper in rolling.keepers:
        keeper.keep()
    rolling.enabled = True
    try:
        await run_router(rotation.fed_to(settings))
    finally:
        await rolling.close()
        for keeper in rolling.keepers:
            await keeper.let_go()


def plan(reload: Reload, keepers: Sequence[EngineKeeper]) -> list[Plan]:
    """What each engine is to be from now on, in its old place: the port stays."""
    settings, machine = reload()
    return [
        (engine_command(settings.engine, machine, port=keeper.port, index=i), settings.engine)
        for i, keeper in enumerate(keepers)
    ]


async def run_engine(
    settings: Settings, machine: Machine, console: Console, *, index: int = 0
) -> None:
    """One engine in the foreground, its whole log on the console. Raises as `up`."""
    keeper = make_keeper(settings, machine, index, console.line)
    signals = StopSignals()
    with signals.installed():
        try:
            if not await until_stopped(keeper.start(), signals):
                return
            console.line(f"Engine ready at {keeper.command.url}")
            if await until_stopped(keeper.process.wait(), signals):
                fault = explain(list(keeper.log.tail), keeper.process.returncode, "")
                raise EngineStartError(fault, str(keeper.log.path))
        finally:
            await stop_all([keeper], signals, console)


def make_keepers(settings: Settings, machine: Machine, console: Console) -> list[EngineKeeper]:
    echo = console.line if settings.server.log_level == "debug" else console.problem
    return [
        make_keeper(settings, machine, index, echo) for index in range(settings.engine.num_replicas)
    ]


def make_keeper(
    settings: Settings, machine: Machine, index: int, echo: Callable[[str], None]
) -> EngineKeeper:
    engine = settings.engine
    port = engine.port + index if engine.port else free_port(engine.host)
    command = engine_command(engine, machine, port=port, index=index)
    path = log_dir(engine) / f"engine-{port}.log"
    path.unlink(missing_ok=True)
    engine_log = EngineLog(path, lambda line: echo(f"engine {index} | {line}"))
    return EngineKeeper(command, engine, engine_log)


def log_dir(engine: EngineSettings) -> Path:
    if engine.log_dir is not None:
        return Path(engine.log_dir)
    return Path(tempfile.gettempdir(), f"r1-serve-{os.getuid()}")


async def start_all(keepers: Sequence[EngineKeeper], console: Console) -> None:
    """Starts every engine at once and shows how far they are. Raises the first's failure."""
    starts = asyncio.gather(*(keeper.start() for keeper in keepers))
    started_at = time.monotonic()
    try:
        while not starts.done():
            waiting = [keeper for keeper in keepers if not keeper.ready]
            phase = waiting[0].log.phase if waiting else "ready"
            elapsed_s = time.monotonic() - started_at
            num_ready = len(keepers) - len(waiting)
            several = f" ({num_ready} of {len(keepers)} ready)" if len(keepers) > 1 else ""
            console.status(f"{keepers[0].settings.served_name}: {phase}{several}", elapsed_s)
            await asyncio.wait({starts}, timeout=0.5)
        await starts
    finally:
        starts.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartError):
            await starts
        console.end_status()
    console.line(f"Engines ready after {time.monotonic() - started_at:.0f} s.")


async def stop_all(keepers: Sequence[EngineKeeper], signals: StopSignals, console: Console) -> None:
    """Stops the engines side by side; one more signal kills them at once."""
    console.line("Stopping.")
    stops = asyncio.gather(*(keeper.stop() for keeper in keepers))
    hurry = asyncio.create_task(signals.hurry.wait())
    await first_of(stops, hurry)
    stops.cancel()
    hurry.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stops
    for keeper in keepers:
        keeper.log.close()
