"""The life of one machine: engines up → ready → router → supervise → drain.

Order matters at the end: the router stops taking requests and lets the open ones finish, and only
then do the engines get their signal. Engines are children of this process and end with it, whatever
ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from serve.console import Console
from serve.engine import EngineCommand, Machine, engine_command
from serve.engine_faults import EngineStartError, explain
from serve.engine_process import EngineLog, EngineProcess, check_port, free_port
from serve.settings import EngineSettings, Settings
from serve.supervise import Backoff, StopSignals, first_of, until_stopped

log = logging.getLogger(__name__)

RunRouter = Callable[[Settings], Awaitable[None]]
"""Serves until cancelled and ends after the drain; one more cancel hurries it."""

STARTUP_STOP_S = 3.0
"""An engine that is still starting has nothing to finish."""
STOP_MARGIN_S = 15.0
"""On top of the drain: vLLM takes 2 to 7 s to end when idle (measured on 2 cores)."""


class EngineKeeper:
    """Keeps one engine running: starts it, starts it again when it dies, stops it."""

    def __init__(
        self, command: EngineCommand, settings: EngineSettings, engine_log: EngineLog
    ) -> None:
        self.command = command
        self.settings = settings
        self.log = engine_log
        self.ready = False
        self.process = EngineProcess(command, engine_log)
        self._backoff = Backoff()

    async def start(self) -> None:
        """Returns when the engine serves. Raises `EngineStartError`; then nothing is left of it.

        Cancelling leaves it as it is, for `stop` to end.
        """
        self.process = EngineProcess(self.command, self.log)
        try:
            await self.process.start()
            await self.process.wait_ready(self.settings.startup_timeout_s)
        except EngineStartError:
            await self.process.stop(STARTUP_STOP_S)
            raise
        self.ready = True

    async def keep(self) -> None:
        """Runs until cancelled. The engine comes back at the same URL."""
        while True:
            status = await self.process.wait()
            self.ready = False
            await self.process.stop(0)  # ends what the server left behind
            fault = explain(list(self.log.tail), status, self.command.model)
            await self._restart(fault.summary)

    async def _restart(self, why: str) -> None:
        while not self.ready:
            delay_s = self._backoff.delay_s(time.monotonic() - self.process.started_at)
            log.error("engine %s died: %s Restart in %.0f s.", self.command.url, why, delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self.start()
            except EngineStartError as exc:
                why = str(exc)
        log.warning("engine %s is back", self.command.url)

    async def stop(self) -> None:
        """Lets running requests finish for `shutdown_timeout_s`. Cancelling kills at once."""
        drain_s = self.settings.shutdown_timeout_s + STOP_MARGIN_S if self.ready else STARTUP_STOP_S
        self.ready = False
        self.log.echoes = False
        await self.process.stop(drain_s)


async def up(settings: Settings, machine: Machine, console: Console, run_router: RunRouter) -> None:
    """Serves until SIGTERM or Ctrl-C; returns when nothing of it is left running.

    Raises `EngineStartError`, and `SettingsError` where the settings don't fit the machine.
    """
    if settings.server.port:
        check_port(settings.server.host, settings.server.port, "server.port")
    keepers = make_keepers(settings, machine, console)
    signals = StopSignals()
    with signals.installed():
        try:
            if await until_stopped(start_all(keepers, console), signals):
                await until_stopped(serve_over(settings, keepers, run_router), signals)
        finally:
            await stop_all(keepers, signals, console)


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


async def serve_over(
    settings: Settings, keepers: Sequence[EngineKeeper], run_router: RunRouter
) -> None:
    """Runs the router over the engines and keeps these alive meanwhile."""
    urls = [keeper.command.url for keeper in keepers]
    router = msgspec.structs.replace(settings.router, engine_urls=urls)
    keeping = asyncio.gather(*(keeper.keep() for keeper in keepers))
    try:
        await run_router(msgspec.structs.replace(settings, router=router))
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


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
