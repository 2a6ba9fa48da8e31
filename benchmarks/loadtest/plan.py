"""Which loads a test tries, in which order, and when it has seen enough. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from benchmarks.loadtest.load import Kind, Load
from benchmarks.loadtest.store import Point

FACTOR = 1.6
"""From one load of a search to the next."""
MAX_POINTS = 12


class Sweep(msgspec.Struct, frozen=True):
    """The loads asked for. Without `values` they are searched: from `start` up until two in a row
    are not carried, or down while none is, then once halfway between."""

    kind: Kind = "concurrency"
    values: tuple[float, ...] = ()
    start: float = 1.0
    stop_below: float = 0.0
    """End the sweep after a point whose share of good requests is below this."""
    burstiness: float = 1.0
    ramp_s: float = 0.0
    trace: str = ""

    def load(self, value: float) -> Load:
        value = float(f"{value:.3g}") if self.kind == "rate" else max(1.0, float(round(value)))
        return Load(self.kind, value, self.burstiness, self.ramp_s, self.trace)


def next_load(sweep: Sweep, points: Sequence[Point], share: float) -> Load | None:
    """The load to try after `points`, where `share` of the requests must be good; None when there
    is no more to try."""
    if points and (share_good(points[-1]) or 0.0) < sweep.stop_below:
        return None
    if sweep.values:
        left = sweep.values[len(points) :]
        return sweep.load(left[0]) if left else None
    return _searched(sweep, points, share)


def share_good(point: Point) -> float | None:
    """None where no request was due, so that nothing is known."""
    estimates = point.estimates()
    return estimates["good"].mean if "good" in estimates else None


def is_carried(point: Point, share: float) -> bool:
    return (share_good(point) or 0.0) >= share


def _searched(sweep: Sweep, points: Sequence[Point], share: float) -> Load | None:
    if not points:
        return sweep.load(sweep.start)
    if len(points) >= MAX_POINTS or share_good(points[-1]) is None:
        return None
    tried = sorted(points, key=lambda point: point.load.value)
    best = knee(points, share)
    if best is None:
        load = sweep.load(tried[0].load.value / FACTOR**2)
        return load if len(points) < MAX_POINTS / 2 and load.value < tried[0].load.value else None
    values, last = [point.load.value for point in tried], points[-1].load.value
    if values[0] < last < values[-1]:
        return None  # halfway has been tried
    above = [value for value in values if value > best.load.value]
    if len(above) < 2 and best.load.value >= points[0].load.value:
        load = sweep.load(values[-1] * FACTOR)
        return load if load.value > values[-1] else sweep.load(values[-1] + 1)
    middle = sweep.load(math.sqrt(best.load.value * above[0]))
    return None if middle.value in values else middle


def knee(points: Sequence[Point], share: float) -> Point | None:
    """The highest load that is carried; None where none is."""
    carried = [point for point in points if is_carried(point, share)]
    return max(carried, key=lambda point: point.load.value, default=None)


def most_efficient(points: Sequence[Point], latency: str = "e2e_p50_ms") -> Point | None:
    """Where throughput over latency is greatest (Kleinrock's power, "On flow control in computer
    networks", ICC 1978): beyond it latency grows faster than throughput."""

    def power(point: Point) -> float:
        estimates = point.estimates()
        if "output_tokens_per_s" not in estimates or latency not in estimates:
            return 0.0
        return estimates["output_tokens_per_s"].mean / estimates[latency].mean

    return max(points, key=power, default=None)
