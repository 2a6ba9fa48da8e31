"""Outcomes as they are kept: JSON, and tables of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from benchmarks.fleet.outcome import Outcome
from benchmarks.stats import table, without_nan

NUM_DIGITS = 5
"""That are kept."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one world came to, read back from JSON."""

    values: Mapping[str, float | Mapping[str, list[float | None]] | None]

    def value(self, key: str) -> float:
        value = self.values[key]
        return value if isinstance(value, float | int) else math.nan

    def series(self, key: str) -> list[float]:
        series = self.values["series"]
        assert isinstance(series, Mapping)
        return [math.nan if value is None else value for value in series[key]]

    def without_series(self) -> dict[str, float]:
        return {key: self.value(key) for key in self.values if key != "series"}


def as_json(outcome: Outcome, wall_s: float) -> object:
    return without_nan({**asdict(outcome), "wall_s": wall_s}, NUM_DIGITS)


COLUMNS = {
    "came": ("num_came", 1, "{:.0f}"),
    "answered": ("num_answered", 1, "{:.0f}"),
    "good": ("num_good", 1, "{:.0f}"),
    "refused at first": ("num_refused_at_first", 1, "{:.0f}"),
    "gave up": ("num_gave_up", 1, "{:.0f}"),
    "moved": ("num_moved", 1, "{:.0f}"),
    "failed": ("num_failed", 1, "{:.0f}"),
    "TTFT p50 s": ("ttft_p50_s", 1, "{:.2f}"),
    "p99 s": ("ttft_p99_s", 1, "{:.2f}"),
    "TTFA p50 s": ("ttfa_p50_s", 1, "{:.1f}"),
    "E2E p99 s": ("e2e_p99_s", 1, "{:.0f}"),
    "hits %": ("prefix_hits", 100, "{:.0f}"),
    "busy %": ("busy", 100, "{:.0f}"),
    "spread": ("spread", 1, "{:.2f}"),
    "thinking %": ("thinking_kept", 100, "{:.0f}"),
    "replica h": ("replica_hours", 1, "{:.1f}"),
    "scalings": ("num_scalings", 1, "{:.0f}"),
}


def as_table(runs: Mapping[str, Run]) -> str:
    rows = [["", *COLUMNS]]
    for name, run in runs.items():
        cells = (text.format(factor * run.value(key)) for key, factor, text in COLUMNS.values())
        rows.append([name, *cells])
    return table(rows)
