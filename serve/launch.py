"""The life of one machine: engines up → ready → router → supervise → drain.

Order matters at the end: the router stops taking requests and lets the open ones finish, and only
then do the engines get their signal. Engines on this machine are children of this process and end
with it, whatever ends it.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from serve.console import Console
from serve.control import controlled
from serve.engine import Machine
from serve.engine_faults import EngineStartError, explain
from serve.engine_keeper import log_dir, make_keeper
from serve.engine_process import check_port
from serve.fleet import Fleet, MakeKeeper, Rotation, stop_all
from serve.ray_head import made_on_ray
from serve.rolling import Read, RollingRestart
from serve.running import registered
from serve.scaling import Scaling
from serve.settings import Settings
from serve.supervise import StopSignals, until_stopped

RunRouter = Callable[[Settings, Callable[[str], None]], Awaitable[None]]
"""Serves until cancelled and ends after the drain; one more cancel hurries it. The second argument
gets the URL once it serves."""


async def up(
    settings: Settings,
    machine: Machine | None,
    console: Console,
    run_router: RunRouter,
    read: Read | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; returns when nothing of it is left running. SIGUSR1 restarts
    the engines one by one, with what `read` gives then.

    Raises `EngineStartError`, and `SettingsError` where the settings don't fit the machine.
    """
    if settings.server.port:
        check_port(settings.server.host, settings.server.port, "server.port")
    logs, port = log_dir(settings.engine), settings.server.port
    signals = StopSignals()
    with (
        signals.installed(),
        tempfile.TemporaryDirectory(prefix="r1-serve-", ignore_cleanup_errors=True) as name,
        registered(logs, port, control := Path(name, "control")),
        _engines(settings, console, directory := Path(name)) as make,
    ):
        rotation = Rotation(directory / "engines")
        fleet = Fleet(settings.engine, machine, make, rotation, console)
        rolling = RollingRestart(fleet, read or (lambda: (settings, machine)), console)

        async def serve() -> None:
            scaling = Scaling(fleet, settings.autoscale, console)

            def on_started(url: str) -> None:
                console.serving(settings, url)
                scaling.start(url)

            async with fleet.serving(), controlled(fleet, control):
                rolling.enabled = True
                try:
                    await run_router(rotation.fed_to(settings), on_started)
                finally:
                    await rolling.close()
                    await scaling.close()

        with signals.installed(), rolling.on_signal(signals):  # anew: Ray has set its own handler
            try:
                if await until_stopped(fleet.start(), signals):
                    await until_stopped(serve(), signals)
            finally:
                await fleet.stop(signals)


@contextlib.contextmanager
def _engines(settings: Settings, console: Console, directory: Path) -> Iterator[MakeKeeper]:
    """What makes the engines, where the settings want them; `directory` is for their files."""
    if settings.engine.backend == "ray":
        with made_on_ray(settings, console, directory, log_dir(settings.engine)) as make:
            yield make
    else:
        echo = console.line if settings.server.log_level == "debug" else console.problem
        yield functools.partial(make_keeper, echo)


async def run_engine(settings: Settings, machine: Machine, console: Console) -> None:
    """One engine in the foreground, its whole log on the console. Raises as `up`."""
    keeper = make_keeper(console.line, settings.engine, machine, 0)
    signals = StopSignals()
    with signals.installed():
        try:
            if not await until_stopped(keeper.start(), signals):
                return
            console.line(f"Engine ready at {keeper.url}")
            if await until_stopped(keeper.process.wait(), signals):
                fault = explain(list(keeper.log.tail), keeper.process.returncode, "")
                raise EngineStartError(fault, str(keeper.log.path))
        finally:
            await stop_all([keeper], signals, console)
