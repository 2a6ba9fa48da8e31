"""Restarts the engines one after the other, so that the others serve meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from serve.console import Console
from serve.engine import Machine
from serve.engine_faults import EngineStartError
from serve.fleet import Fleet, Keeper, Renewal
from serve.settings import Settings, SettingsError
from serve.supervise import StopSignals, end, until_stopped

SETTLE_S = 2.0
"""For the router to see an engine that is back, and to find it healthy, before the next goes."""

Read = Callable[[], tuple[Settings, Machine | None]]
"""Reads the settings again, and what is installed. Raises `SettingsError`."""


class RollingRestart:
    """On SIGUSR1, one at a time, with what `read` gives then; where it raises, or the settings
    can't be used, nothing is touched."""

    def __init__(self, fleet: Fleet, read: Read, console: Console) -> None:
        self.enabled = False
        """False while the engines start for the first time."""
        self._fleet = fleet
        self._read = read
        self._console = console
        self._task: asyncio.Task[bool] | None = None

    @contextlib.contextmanager
    def on_signal(self, signals: StopSignals) -> Iterator[None]:
        """A stop signal ends a restart that is under way."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self.request, signals)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    def request(self, signals: StopSignals) -> None:
        if not self.enabled or signals.stop.is_set():
            self._console.line("No restart of engines now: they are starting or stopping.")
        elif self._task is not None and not self._task.done():
            self._console.line("The engines are being restarted already.")
        else:
            self._task = asyncio.create_task(until_stopped(self.run(), signals))

    async def close(self) -> None:
        self.enabled = False
        await end(self._task)

    async def run(self) -> None:
        """Restarts every engine, unless one doesn't come back: then the rest keep running."""
        async with self._fleet.changing:
            await self._restart_all()

    async def _restart_all(self) -> None:
        fleet = self._fleet
        try:
            settings, machine = self._read()
            engine = settings.engine
            renewals = [(it, it.renewal(engine, machine)) for it in fleet.keepers]
        except SettingsError as exc:
            self._console.line(f"No engine is restarted: {exc}")
            return
        for keeper, renewal in renewals:
            others = [other for other in fleet.keepers if other is not keeper]
            if down := [
                other.url or f"engine {other.index}" for other in others if not other.ready
            ]:
                self._console.line(f"The restart stops here: {', '.join(down)} is not ready.")
                return
            if not await self._restart(keeper, renewal, alone=not others):
                return
        fleet.settings, fleet.machine = engine, machine
        self._console.line("All engines are restarted.")

    async def _restart(self, keeper: Keeper, renewal: Renewal, *, alone: bool) -> bool:
        """Whether the engine came back."""
        self._console.line(f"Restarting the engine at {keeper.url}.")
        try:
            if alone:
                self._console.line("It is the only one: requests are refused until it is back.")
                await renewal()
            else:
                async with self._fleet.without(keeper):
                    await renewal()
        except EngineStartError as exc:
            self._console.line(f"The restart stops here: {exc}")
            return False
        await asyncio.sleep(SETTLE_S)
        return True
