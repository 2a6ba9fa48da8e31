"""Restarts the engines one after the other, so that the others serve meanwhile.

The router reads which engines to use from a file that it watches (`router.engine_file`); an engine
is taken out of it, ended when nothing runs on it any more, started anew and put back. vLLM that
drains answers new requests with errors, so the order matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from serve.console import Console
from serve.engine import EngineCommand
from serve.engine_faults import EngineStartError
from serve.engine_keeper import EngineKeeper
from serve.engine_process import num_requests
from serve.settings import EngineSettings, Settings, SettingsError
from serve.supervise import StopSignals, until_stopped

NOTICE_S = 1.0
"""The router looks at the file every 0.25 s; what it sent just before is at the engine by then."""
SETTLE_S = 2.0
"""For the router to see an engine that is back, and to find it healthy, before the next goes."""
POLL_S = 0.2

Plan = tuple[EngineCommand, EngineSettings]


class Rotation:
    """The file that tells the router its engines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, urls: Iterable[str]) -> None:
        """At once and whole: a reader sees the old set or the new."""
        written = self._path.with_suffix(".new")
        written.write_text("".join(f"{url}\n" for url in urls))
        written.replace(self._path)

    def fed_to(self, settings: Settings) -> Settings:
        """`settings` for a router that takes its engines from here."""
        router = msgspec.structs.replace(
            settings.router, engine_urls=[], engine_dns=None, engine_file=str(self._path)
        )
        return msgspec.structs.replace(settings, router=router)


class RollingRestart:
    """On SIGUSR1, one at a time. `plan` says what each engine is to be; it raises `SettingsError`
    where the settings can't be used, and then nothing is touched."""

    def __init__(
        self,
        keepers: Sequence[EngineKeeper],
        rotation: Rotation,
        plan: Callable[[], Sequence[Plan]],
        console: Console,
    ) -> None:
        self.keepers = keepers
        self.enabled = False
        """False while the engines start for the first time."""
        self._rotation = rotation
        self._plan = plan
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
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def run(self) -> None:
        """Restarts every engine, unless one doesn't come back: then the rest keep running."""
        try:
            plans = self._plan()
        except SettingsError as exc:
            self._console.line(f"No engine is restarted: {exc}")
            return
        for keeper, plan in zip(self.keepers, plans, strict=True):
            others = [other for other in self.keepers if other is not keeper]
            if down := [other.command.url for other in others if not other.ready]:
                self._console.line(f"The restart stops here: {', '.join(down)} is not ready.")
                return
            if not await self._restart(keeper, plan, others):
                return
        self._console.line("All engines are restarted.")

    async def _restart(
        self, keeper: EngineKeeper, plan: Plan, others: Sequence[EngineKeeper]
    ) -> bool:
        """Whether the engine came back."""
        url = keeper.command.url
        self._console.line(f"Restarting the engine at {url}.")
        try:
            if others:
                self._rotation.write(other.command.url for other in others)
                await asyncio.sleep(NOTICE_S)
                await until_idle(url, keeper.settings.shutdown_timeout_s)
            else:
                self._console.line("It is the only one: requests are refused until it is back.")
            await keeper.replace(*plan)
        except EngineStartError as exc:
            self._console.line(f"The restart stops here: {exc}")
            return False
        finally:
            self._rotation.write(it.command.url for it in self.keepers)
        await asyncio.sleep(SETTLE_S)
        return True


async def until_idle(url: str, timeout_s: float) -> None:
    """Returns when nothing runs or waits on the engine, it doesn't answer, or time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while await num_requests(url):  # noqa: ASYNC110  (the engine tells only when asked)
                await asyncio.sleep(POLL_S)
