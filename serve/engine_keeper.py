"""Keeps one engine of this machine running: starts it, starts it again when it dies, puts another
in its place."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from serve.engine import NO_VLLM, EngineCommand, Machine, engine_command
from serve.engine_faults import EngineStartError, explain
from serve.engine_process import EngineLog, EngineProcess, free_port
from serve.fleet import Renewal
from serve.settings import EngineSettings, SettingsError
from serve.supervise import Backoff, end

log = logging.getLogger(__name__)

STARTUP_STOP_S = 3.0
"""An engine that is still starting has nothing to finish."""
STOP_MARGIN_S = 15.0
"""On top of the drain: vLLM takes 2 to 7 s to end when idle (measured on 2 cores)."""


class EngineKeeper:
    """A `fleet.Keeper` of a child process."""

    place = ""

    def __init__(
        self, command: EngineCommand, settings: EngineSettings, engine_log: EngineLog, index: int
    ) -> None:
        self.command = command
        self.settings = settings
        self.log = engine_log
        self.index = index
        self.ready = False
        self.process = EngineProcess(command, engine_log)
        self._backoff = Backoff()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self.command.url

    @property
    def phase(self) -> str:
        return self.log.phase

    async def start(self) -> None:
        self.process = EngineProcess(self.command, self.log)
        try:
            await self.process.start()
            await self.process.wait_ready(self.settings.startup_timeout_s)
        except EngineStartError:
            await self.process.stop(STARTUP_STOP_S)
            raise
        self.ready = True

    def keep(self, fault: str | None = None) -> None:
        """It comes back at the same URL. `fault`: why it is down already."""
        self._keeping = asyncio.create_task(self._keep(fault))

    async def let_go(self) -> None:
        await end(self._keeping)
        self._keeping = None

    async def _keep(self, fault: str | None) -> None:
        while True:
            if fault is None:
                status = await self.process.wait()
                self.ready = False
                await self.process.stop(0)  # ends what the server left behind
                fault = explain(list(self.log.tail), status, self.command.model).summary
            await self._restart(fault)
            fault = None

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

    def renewal(self, settings: EngineSettings, machine: Machine | None) -> Renewal:
        """In the old place: the port stays."""
        port = urlsplit(self.url).port or 0
        command = _command(settings, machine, port, self.index)
        return functools.partial(self._replace, command, settings)

    async def _replace(self, command: EngineCommand, settings: EngineSettings) -> None:
        await self.let_go()
        await self.stop()
        old = self.command, self.settings
        self.command, self.settings = command, settings
        self.log.echoes = True
        try:
            await self.start()
        except EngineStartError as exc:
            self.command, self.settings = old
            self.keep(str(exc))
            raise
        self.keep()

    async def stop(self) -> None:
        drain_s = self.settings.shutdown_timeout_s + STOP_MARGIN_S if self.ready else STARTUP_STOP_S
        self.ready = False
        self.log.echoes = False
        await self.process.stop(drain_s)

    def close(self) -> None:
        self.log.close()


def make_keeper(
    echo: Callable[[str], None], settings: EngineSettings, machine: Machine | None, index: int
) -> EngineKeeper:
    """The keeper of an engine with this index; `echo` gets the lines of its log. Raises
    `SettingsError`."""
    port = settings.port + index if settings.port else free_port(settings.host)
    command = _command(settings, machine, port, index)
    path = log_dir(settings) / f"engine-{port}.log"
    path.unlink(missing_ok=True)
    engine_log = EngineLog(path, lambda line: echo(f"engine {index} | {line}"))
    return EngineKeeper(command, settings, engine_log, index)


def _command(
    settings: EngineSettings, machine: Machine | None, port: int, index: int
) -> EngineCommand:
    if machine is None:
        raise SettingsError(NO_VLLM)
    if index >= settings.num_replicas:
        settings = msgspec.structs.replace(settings, num_replicas=index + 1)
    return engine_command(settings, machine, port=port, index=index)


def log_dir(engine: EngineSettings) -> Path:
    if engine.log_dir is not None:
        return Path(engine.log_dir)
    return Path(tempfile.gettempdir(), f"r1-serve-{os.getuid()}")
