"""How a test goes, for people: a bar while a step is under way, a line when it has ended; where
nobody watches, only the lines.
"""

from __future__ import annotations

import asyncio
import math

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from benchmarks.loadtest.drive import Step
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.report import shown
from benchmarks.loadtest.run import Progress as Listener
from benchmarks.loadtest.store import Repeat

INTERVAL_S = 0.25
_LINE = ("output_tokens_per_s", "goodput_per_s", "good", "ttft_p50_ms", "e2e_p50_ms", "right")


class Terminal(Listener):
    def __init__(self, console: Console, repeats: int) -> None:
        self._console = console
        self._repeats = repeats
        self._step: Step | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[doing]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", doing="")

    def begins(self, load: Load, repeat: int, step: Step) -> None:
        self._step = step
        self._bar.reset(self._task, description=escape(self._name(load, repeat)), doing="")

    def ended(self, load: Load, repeat: int, found: Repeat) -> None:
        self._step = None
        figures = found.figures
        parts = [f"{name}={shown(name, figures[name])}" for name in _LINE if name in figures]
        name = self._name(load, repeat) + (" (interrupted)" if found.interrupted else "")
        self._console.print(f"{name}: {', '.join(parts)}", highlight=False, markup=False)

    def _name(self, load: Load, repeat: int) -> str:
        return load.label if self._repeats == 1 else f"{load.label}, {repeat + 1}/{self._repeats}"

    async def show(self) -> None:
        """Until cancelled."""
        with self._bar:
            while True:
                if self._step is not None:
                    self._update(self._step)
                await asyncio.sleep(INTERVAL_S)

    def _update(self, step: Step) -> None:
        window, now_s = step.window, step.window.clock()
        num_ended = sum(record.ended_at_s is not None for record in step.records)
        phase = (
            "warming up"
            if now_s < window.begin_s
            else "measuring"
            if now_s < window.end_s
            else "waiting for what was sent"
        )
        end_s = window.end_s if math.isfinite(window.end_s) else None
        self._bar.update(
            self._task,
            total=end_s,
            completed=min(now_s, window.end_s),
            doing=f"{phase}: {num_ended} of {len(step.records)} requests have ended",
            refresh=True,
        )
