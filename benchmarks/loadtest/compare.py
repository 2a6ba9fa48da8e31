"""Two tests side by side: better, worse or the same, beyond what repeats differ by. Pure.

A difference counts where it is larger than the noise of both (their 95 % intervals, added as
independent errors are) and than a floor of 5 %, of shares two points of a hundred. Without three
repeats of both the noise isn't known, and nothing is said. About one figure in a hundred comes out
wrong by chance all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

from benchmarks.loadtest.estimate import Estimate
from benchmarks.loadtest.figures import ENOUGH_FOR_P99, FIGURES
from benchmarks.loadtest.report import headed, with_margin
from benchmarks.loadtest.store import Run
from serve.settings import SettingsError

Verdict = Literal["better", "worse", "same", "unknown", "gone"]
FLOOR = 0.05
SHARE_FLOOR = 0.02
JUDGED = (
    "output_tokens_per_s", "goodput_per_s", "ttft_p50_ms", "ttft_p99_ms", "ttfa_p50_ms",
    "tpot_p50_ms", "e2e_p50_ms", "e2e_p99_ms", "answered", "failed", "right",
)  # fmt: skip
_OF_THE_SLO = {"goodput_per_s"}
_COLORS: dict[Verdict, str] = {
    "better": "green",
    "worse": "red",
    "gone": "red",
    "same": "dim",
    "unknown": "dim",
}


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
        if math.isnan(self.after.mean):
            return "gone"
        if self.before.margin is None or self.after.margin is None:
            return "unknown"
        delta = self.after.mean - self.before.mean
        noise = math.hypot(self.before.margin, self.after.margin)
        if abs(delta) <= max(self._floor, noise):
            return "same"
        return "better" if (delta > 0) == (FIGURES[self.figure].better == "higher") else "worse"

    @property
    def _floor(self) -> float:
        is_share = FIGURES[self.figure].unit == "share"
        return SHARE_FLOOR if is_share else FLOOR * abs(self.before.mean)


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
    others = {point.load: point for point in after.points}
    is_same_slo = before.slo == after.slo
    for point in before.points:
        if (other := others.get(point.load)) is None:
            continue
        old, new = point.estimates(), other.estimates()
        for name in JUDGED:
            if name not in old or (name in _OF_THE_SLO and not is_same_slo):
                continue
            if name.endswith("_p99_ms") and not _enough(old, new):
                continue
            yield Difference(point.load.label, name, old[name], new.get(name, Estimate(math.nan)))


def _enough(old: Mapping[str, Estimate], new: Mapping[str, Estimate]) -> bool:
    """Requests of each repeat for a 99th percentile to mean something."""
    none = Estimate(0.0)
    return all(it.get("num_requests", none).mean >= ENOUGH_FOR_P99 for it in (old, new))


def lost_loads(before: Run, after: Run) -> list[str]:
    """What the second test no longer has: it was stopped, or its sweep ended sooner."""
    others = {point.load for point in after.points}
    return [point.load.label for point in before.points if point.load not in others]


def remarks(before: Run, after: Run, differences: Sequence[Difference]) -> Iterator[str]:
    for label in lost_loads(before, after):
        yield f"Gone: the second test has no load of {label}."
    if before.slo != after.slo:
        yield (
            f"Goodput is not compared: the limits were {before.slo.text} and are {after.slo.text}."
        )
    if any(it.verdict == "unknown" for it in differences):
        yield "Nothing is judged where a test has fewer than three repeats (--repeats 3)."


def _loads(run: Run) -> str:
    return ", ".join(point.load.label for point in run.points) or "none"


def is_worse(differences: Sequence[Difference]) -> bool:
    return any(difference.verdict in ("worse", "gone") for difference in differences)


def comparison_table(differences: Sequence[Difference]) -> Table:
    table = Table()
    for title in ("load", "figure"):
        table.add_column(title)
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right")
    table.add_column("")
    for it in differences:
        change = "" if math.isnan(it.change) else f"{100 * it.change:+.1f} %"
        cells = [
            "-" if math.isnan(estimate.mean) else with_margin(it.figure, estimate)
            for estimate in (it.before, it.after)
        ]
        verdict = f"[{_COLORS[it.verdict]}]{it.verdict}[/]"
        table.add_row(escape(it.load), headed(it.figure), *cells, change, verdict)
    return table
