"""How a pull or a check goes: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_INTERVAL_S = 10.0


class Shown:
    """A `serve.models.fetch.Watcher`, to be used in a `with`."""

    def __init__(
        self, console: Console | None = None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True)
        self._clock_s = clock_s
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", visible=False)
        self._doing, self._num_bytes, self._num_done = "", 0, 0
        self._said_at_s = 0.0

    def tell(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, doing: str, num_bytes: int, num_done: int = 0) -> None:
        self._doing, self._num_bytes, self._num_done = doing, num_bytes, num_done
        self._bar.reset(
            self._task,
            description=escape(doing),
            total=num_bytes,
            completed=num_done,
            visible=True,
        )
        if self._bar.disable:
            self._say()

    def advance(self, num_bytes: int) -> None:
        self._num_done += num_bytes
        self._bar.update(self._task, completed=self._num_done)
        if self._bar.disable and self._clock_s() - self._said_at_s >= LINE_INTERVAL_S:
            self._say()

    def _say(self) -> None:
        self._said_at_s = self._clock_s()
        self.tell(f"{self._doing}: {decimal(self._num_done)} of {decimal(self._num_bytes)}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._bar.stop()
