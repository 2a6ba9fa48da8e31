"""The engines that one `r1-serve up` runs: which there are, how many, which the router uses.

The router reads its engines from a file that it watches (`router.engine_file`). An engine that goes
is taken out of it, ended when nothing runs on it any more, and put back, if it comes back: vLLM
that drains answers new requests with errors, so the order matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from serve.console import Console
from serve.engine import Machine
from serve.engine_faults import EngineStartError
from serve.engine_process import read_load
from serve.settings import EngineSettings, Settings
from serve.supervise import StopSignals, end, first_of

NOTICE_S = 1.0
"""The router looks at the file every 0.25 s; what it sent just before is at the engine by then."""
POLL_S = 0.2

Renewal = Callable[[], Awaitable[None]]
"""Ends an engine, letting what runs finish, and starts another in its place. Raises
`EngineStartError`; then the old one is tried on and on."""


class Keeper(Protocol):
    """One engine and what keeps it running, wherever that is."""

    index: int
    settings: EngineSettings

    @property
    def url(self) -> str:
        """Where it serves; empty before it does so anywhere."""

    @property
    def place(self) -> str:
        """The machine it is on, for people; empty where that is this one."""

    @property
    def ready(self) -> bool: ...

    @property
    def phase(self) -> str:
        """What it is doing until it is ready, for people."""

    async def start(self) -> None:
        """Returns when the engine serves. Raises `EngineStartError`; then nothing is left of it.

        Cancelling leaves it as it is, for `stop` to end.
        """

    def keep(self) -> None:
        """From now on, until `let_go`, the engine comes back when it dies."""

    async def let_go(self) -> None:
        """Ends `keep`; the engine stays as it is."""

    def renewal(self, settings: EngineSettings, machine: Machine | None) -> Renewal:
        """How to put an engine with other settings in its place. Raises `SettingsError`."""

    async def stop(self) -> None:
        """Lets running requests finish for `shutdown_timeout_s`. Cancelling kills at once."""

    def close(self) -> None:
        """After `stop`."""


MakeKeeper = Callable[[EngineSettings, Machine | None, int], Keeper]
"""An engine's settings, what is installed here, and its index → its keeper. Raises
`SettingsError`."""


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


class Fleet:
    """`start` it, be `serving`, `scale` it meanwhile, and `stop` it at the end. Raises
    `SettingsError` where an engine can't be made."""

    def __init__(
        self,
        settings: EngineSettings,
        machine: Machine | None,
        make: MakeKeeper,
        rotation: Rotation,
        console: Console,
    ) -> None:
        self.settings = settings
        self.machine = machine
        self.changing = asyncio.Lock()
        """Held while engines are started or restarted: one change at a time."""
        self._make = make
        self._rotation = rotation
        self._console = console
        self._out: set[int] = set()
        """Engines, by index, that get no requests now."""
        self._leaving: dict[Keeper, asyncio.Task[None]] = {}
        self._told: list[str] = []
        self.keepers: list[Keeper] = []
        self.keepers = self._make_new(settings.num_replicas)

    async def start(self) -> None:
        """Starts every engine at once and shows how far they are. Raises the first's failure."""
        starts = asyncio.gather(*(keeper.start() for keeper in self.keepers))
        started_at = time.monotonic()
        try:
            while not starts.done():
                self._show_start(time.monotonic() - started_at)
                await asyncio.wait({starts}, timeout=0.5)
            await starts
        finally:
            starts.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineStartError):
                await starts
            self._console.end_status()
        self._console.line(f"Engines ready after {time.monotonic() - started_at:.0f} s.")

    def _make_new(self, num: int) -> list[Keeper]:
        """With the lowest indices that are free; all or, with `SettingsError`, none."""
        taken = {keeper.index for keeper in (*self.keepers, *self._leaving)}
        free = (index for index in itertools.count() if index not in taken)
        with contextlib.ExitStack() as made:
            new = []
            for _ in range(num):
                new.append(self._make(self.settings, self.machine, next(free)))
                made.callback(new[-1].close)
            made.pop_all()
        return new

    def _show_start(self, elapsed_s: float) -> None:
        waiting = [keeper for keeper in self.keepers if not keeper.ready]
        phase = waiting[0].phase if waiting else "ready"
        num, num_ready = len(self.keepers), len(self.keepers) - len(waiting)
        several = f" ({num_ready} of {num} ready)" if num > 1 else ""
        self._console.status(f"{self.settings.served_name}: {phase}{several}", elapsed_s)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Keeps the engines alive and the router told, until left."""
        for keeper in self.keepers:
            keeper.keep()
        self.tell()
        telling = asyncio.create_task(self._tell_moves())
        try:
            yield
        finally:
            for task in (telling, *self._leaving.values()):
                await end(task)
            for keeper in self.keepers:
                await keeper.let_go()

    def tell(self) -> None:
        """Tells the router which engines to use. It is never told that there are none: those that
        it knows are then out of rotation by their own fault, and come back by themselves."""
        using = (it for it in self.keepers if it.index not in self._out)
        urls = [keeper.url for keeper in using if keeper.url]
        if urls and urls != self._told:
            self._rotation.write(urls)
            self._told = urls

    async def _tell_moves(self) -> None:
        """An engine that comes back elsewhere has another URL."""
        while True:
            await asyncio.sleep(POLL_S)
            self.tell()

    @contextlib.asynccontextmanager
    async def without(self, keeper: Keeper) -> AsyncIterator[None]:
        """Out of rotation until left; entered when nothing runs on it any more."""
        self._out.add(keeper.index)
        self.tell()
        try:
            await asyncio.sleep(NOTICE_S)
            await until_idle(keeper.url, keeper.settings.shutdown_timeout_s)
            yield
        finally:
            self._out.discard(keeper.index)
            self.tell()

    async def scale(self, num_replicas: int) -> None:
        """Returns when so many serve; those that are too many get no requests any more, and end
        when they have finished what they run (`until_left`).

        Raises `EngineStartError` and `SettingsError`; what did start stays then.
        """
        async with self.changing:
            by_worth = sorted(self.keepers, key=lambda it: (not it.ready, it.index))
            for keeper in by_worth[num_replicas:]:
                self._let_leave(keeper)
            await self._add(num_replicas - len(self.keepers))

    async def until_left(self) -> None:
        """Returns when those that were too many have ended."""
        if self._leaving:
            await asyncio.wait(self._leaving.values())

    async def _add(self, num: int) -> None:
        new = self._make_new(num)
        self.keepers += new
        self._out |= {keeper.index for keeper in new}
        outcomes = await asyncio.gather(*(it.start() for it in new), return_exceptions=True)
        failures = []
        for keeper, outcome in zip(new, outcomes, strict=True):
            self._out.discard(keeper.index)
            if isinstance(outcome, BaseException):
                self.keepers.remove(keeper)
                keeper.close()
                failures.append(outcome)
            else:
                keeper.keep()
                self._console.line(f"Engine {keeper.index} serves at {keeper.url}.")
        self.tell()
        if failures:
            raise failures[0]

    def _let_leave(self, keeper: Keeper) -> None:
        self.keepers.remove(keeper)
        self.tell()
        self._leaving[keeper] = asyncio.create_task(self._leave(keeper))

    async def _leave(self, keeper: Keeper) -> None:
        self._console.line(f"Engine {keeper.index} ends when what it runs is finished.")
        await keeper.let_go()
        await asyncio.sleep(NOTICE_S)
        await until_idle(keeper.url, keeper.settings.shutdown_timeout_s)
        await keeper.stop()
        keeper.close()
        del self._leaving[keeper]
        self._console.line(f"Engine {keeper.index} has ended.")

    async def stop(self, signals: StopSignals) -> None:
        await stop_all([*self.keepers, *self._leaving], signals, self._console)


async def stop_all(keepers: Sequence[Keeper], signals: StopSignals, console: Console) -> None:
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
        keeper.close()


async def until_idle(url: str, timeout_s: float) -> None:
    """Returns when nothing runs or waits on the engine, it doesn't answer, is nowhere yet, or time
    is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while await _num_requests(url):  # noqa: ASYNC110  (the engine tells only when asked)
                await asyncio.sleep(POLL_S)


async def _num_requests(url: str) -> int:
    load = await read_load(url) if url else None
    return 0 if load is None else load.num_running + load.num_waiting
