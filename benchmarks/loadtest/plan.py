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
    """The loads asked for. Without `values` they are searched: from `start` up until the limits are
    broken and more load brings no more goodput, then halfway back."""

    kind: Kind = "concurrency"
    values: tuple[float, ...] = ()
    start: float = 1.0
    stop_below: float = 0.0
    """End the sweep after a point whose share of good requests is below this."""
    burstiness: float = 1.0
    ramp_s: float = 0.0
    trace: str = ""

    def with_shape(self, burstiness: float, ramp_s: float, stop_below: float) -> Sweep:
        return msgspec.structs.replace(
            self, burstiness=burstiness, ramp_s=ramp_s, stop_below=stop_below
        )

    def load(self, value: float) -> Load:
        value = round(value, 3) if self.kind == "rate" else max(1.0, float(round(value)))
        return Load(self.kind, value, self.burstiness, self.ramp_s, self.trace)


def next_load(sweep: Sweep, points: Sequence[Point], share: float) -> Load | None:
    """The load to try after `points`, where `share` of the requests must be good; None when there
    is no more to try."""
    if points and share_good(points[-1]) < sweep.stop_below:
        return None
    if sweep.values:
        left = sweep.values[len(points) :]
        return sweep.load(left[0]) if left else None
    return _searched(sweep, points, share)


def share_good(point: Point) -> float:
    estimates = point.estimates()
    return estimates["good"].mean if "good" in estimates else 0.0


def is_carried(point: Point, share: float) -> bool:
    return share_good(point) >= share


def _searched(sweep: Sweep, points: Sequence[Point], share: float) -> Load | None:
    """Up by factors until two points are broken; then once between the last that is carried and the
    first that is not."""
    if not points:
        return sweep.load(sweep.start)
    if len(points) >= MAX_POINTS:
        return None
    tried = sorted(points, key=lambda point: point.load.value)
    broken = [point for point in tried if not is_carried(point, share)]
    highest = tried[-1].load.value
    if len(broken) < 2:
        load = sweep.load(highest * FACTOR)
        return load if load.value > highest else sweep.load(highest + 1)
    carried = [p.load.value for p in tried if p.load.value < broken[0].load.value]
    if not carried or points[-1].load.value < highest:
        return None
    middle = sweep.load(math.sqrt(carried[-1] * broken[0].load.value))
    return None if any(p.load.value == middle.value for p in tried) else middle


def knee(points: Sequence[Point], share: float) -> Point | None:
    """The highest load that is carried, below which all are; None where not even the lowest is."""
    best = None
    for point in sorted(points, key=lambda it: it.load.value):
        if not is_carried(point, share):
            break
        best = point
    return best


def most_efficient(points: Sequence[Point], latency: str = "e2e_p50_ms") -> Point | None:
    """Where throughput over latency is greatest (Kleinrock's power, "On flow control in computer
    networks", ICC 1978): beyond it latency grows faster than throughput."""

    def power(point: Point) -> float:
        estimates = point.estimates()
        if "output_tokens_per_s" not in estimates or latency not in estimates:
            return 0.0
        return estimates["output_tokens_per_s"].mean / estimates[latency].mean

    return max(points, key=power, default=None)
