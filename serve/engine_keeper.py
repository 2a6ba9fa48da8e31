"""Keeps one engine running: starts it, starts it again when it dies, puts another in its place."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import urlsplit

from serve.engine import EngineCommand
from serve.engine_faults import EngineStartError, explain
from serve.engine_process import EngineLog, EngineProcess
from serve.settings import EngineSettings
from serve.supervise import Backoff

log = logging.getLogger(__name__)

STARTUP_STOP_S = 3.0
"""An engine that is still starting has nothing to finish."""
STOP_MARGIN_S = 15.0
"""On top of the drain: vLLM takes 2 to 7 s to end when idle (measured on 2 cores)."""


class EngineKeeper:
    """`start` it, `keep` it, and `stop` it at the end."""

    def __init__(
        self, command: EngineCommand, settings: EngineSettings, engine_log: EngineLog
    ) -> None:
        self.command = command
        self.settings = settings
        self.log = engine_log
        self.ready = False
        self.process = EngineProcess(command, engine_log)
        self._backoff = Backoff()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return urlsplit(self.command.url).port or 0

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

    def keep(self, fault: str | None = None) -> None:
        """From now on, until `let_go`, the engine comes back at the same URL when it dies. `fault`:
        why it is down already."""
        self._keeping = asyncio.create_task(self._keep(fault))

    async def let_go(self) -> None:
        """Ends `keep`; the engine stays as it is."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
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

    async def replace(self, command: EngineCommand, settings: EngineSettings) -> None:
        """Ends the engine, letting what runs finish, and starts `command` instead.

        Raises `EngineStartError`; then the old command is tried on and on.
        """
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
        """Lets running requests finish for `shutdown_timeout_s`. Cancelling kills at once."""
        drain_s = self.settings.shutdown_timeout_s + STOP_MARGIN_S if self.ready else STARTUP_STOP_S
        self.ready = False
        self.log.echoes = False
        await self.process.stop(drain_s)
