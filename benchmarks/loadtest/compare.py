"""Two tests side by side: better, worse or the same, beyond what repeats differ by. Pure.

A difference counts where it is larger than the noise of both (their 95 % intervals, added as
independent errors are) and than a floor: 3 % with repeats. Without repeats the noise isn't known
and 10 % is taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from benchmarks.loadtest.estimate import Estimate
from benchmarks.loadtest.figures import FIGURES
from benchmarks.loadtest.report import headed, with_margin
from benchmarks.loadtest.store import Run
from serve.settings import SettingsError

Verdict = Literal["better", "worse", "same"]
FLOOR = 0.03
FLOOR_WITHOUT_REPEATS = 0.10
SHARE_FLOOR = 0.02
"""Of figures that are shares: two points of a hundred."""
JUDGED = (
    "requests_per_s", "output_tokens_per_s", "goodput_per_s", "ttft_p50_ms", "ttft_p99_ms",
    "ttfa_p50_ms", "tpot_p50_ms", "e2e_p50_ms", "e2e_p99_ms", "answered", "failed", "right",
    "router_cpu_us_per_token",
)  # fmt: skip
_COLORS: dict[Verdict, str] = {"better": "green", "worse": "red", "same": "dim"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure at one load."""

    load: str
    figure: str
    before: Estimate
    after: Estimate

    @property
    def change(self) -> float:
        """Of the value before; NaN where that is 0."""
        return self.after.mean / self.before.mean - 1 if self.before.mean else math.nan

    @property
    def verdict(self) -> Verdict:
        delta = self.after.mean - self.before.mean
        if abs(delta) <= self._noise:
            return "same"
        return "better" if (delta > 0) == (FIGURES[self.figure].better == "higher") else "worse"

    @property
    def _noise(self) -> float:
        margins = self.before.margin, self.after.margin
        is_repeated = all(margin is not None for margin in margins)
        floor = (FLOOR if is_repeated else FLOOR_WITHOUT_REPEATS) * abs(self.before.mean)
        if FIGURES[self.figure].unit == "share":
            floor = max(floor, SHARE_FLOOR)
        return max(floor, math.hypot(*(margin or 0.0 for margin in margins)))


def compare(before: Run, after: Run) -> list[Difference]:
    """At the loads that both have. Raises `SettingsError` where there are none, or where the two
    can't be compared."""
    if before.workload != after.workload:
        raise SettingsError(
            f"the two tests have different workloads ({before.workload.name!r} and"
            f" {after.workload.name!r}, or other values in them): run both with the same"
        )
    found = list(_differences(before, after))
    if not found:
        raise SettingsError(
            "the two tests have no load in common: "
            f"{_loads(before)} and {_loads(after)}; give both the same --rates or --concurrency"
        )
    return found


def _differences(before: Run, after: Run) -> Iterator[Difference]:
    others = {point.load: point.estimates() for point in after.points}
    for point in before.points:
        old, new = point.estimates(), others.get(point.load, {})
        for name in JUDGED:
            if name in old and name in new:
                yield Difference(point.load.label, name, old[name], new[name])


def _loads(run: Run) -> str:
    return ", ".join(point.load.label for point in run.points) or "none"


def is_worse(differences: Sequence[Difference]) -> bool:
    return any(difference.verdict == "worse" for difference in differences)


def comparison_table(differences: Sequence[Difference]) -> Table:
    table = Table()
    for title in ("load", "figure"):
        table.add_column(title)
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right")
    table.add_column("")
    for it in differences:
        change = "-" if math.isnan(it.change) else f"{100 * it.change:+.1f} %"
        cells = [with_margin(it.figure, estimate) for estimate in (it.before, it.after)]
        verdict = f"[{_COLORS[it.verdict]}]{it.verdict}[/]"
        table.add_row(it.load, headed(it.figure), *cells, change, verdict)
    return table
