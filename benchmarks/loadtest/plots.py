"""Pictures of a test, as matplotlib figures: what `report` puts into the page and beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from benchmarks.loadtest.figures import FIGURES
from benchmarks.loadtest.plan import knee, most_efficient
from benchmarks.loadtest.store import Point, Repeat, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE, ORANGE, GREEN, GREY, RED = "#2563eb", "#ea7317", "#15803d", "#6b7280", "#b91c1c"
_PHASES = {"prompt": GREY, "thinking": ORANGE, "answer": BLUE}
Plot = Callable[[Run], Figure | None]


def latency_against_throughput(run: Run) -> Figure | None:
    """One curve a percentile, one mark a load; the knee marked."""
    points = [p for p in by_load(run) if {"output_tokens_per_s", "e2e_p50_ms"} <= set(_means(p))]
    if not points:
        return None
    figure, (left, right) = _two("Latency against throughput")
    for axes, name in ((left, "ttft"), (right, "e2e")):
        for percent, color in ((50, BLUE), (90, ORANGE), (99, RED)):
            _curve(axes, points, "output_tokens_per_s", f"{name}_p{percent}_ms", color)
        axes.set_xlabel("output tokens per second")
        axes.set_ylabel(f"{FIGURES[f'{name}_p50_ms'].label.split()[0]} (ms)")
        _mark(axes, knee(points, run.slo.share), "most within the limits", GREEN, "--")
        _mark(axes, most_efficient(points), "throughput / latency best", GREY, ":")
        _scale(axes)
        axes.legend(fontsize=8)
    for point in points:
        x, y = (_means(point)[name] for name in ("output_tokens_per_s", "e2e_p50_ms"))
        right.annotate(
            _label(point), (x, y), (0, -12), textcoords="offset points", fontsize=7, ha="center"
        )
    return figure


def goodput_against_load(run: Run) -> Figure | None:
    """What came back, what of it kept to the limits, and which share that is."""
    points = by_load(run)
    if not points:
        return None
    figure, (left, right) = _two(f"Goodput within {run.slo.text}")
    _curve(left, points, "load", "requests_per_s", GREY, "ended")
    _curve(left, points, "load", "goodput_per_s", GREEN, "within the limits")
    left.set_ylabel("requests per second")
    for name, color in (
        ("good", GREEN), ("answered", BLUE), ("right", ORANGE),
        ("refused", RED), ("unfinished", GREY),
    ):  # fmt: skip
        if any(_means(point).get(name) for point in points):
            _curve(right, points, "load", name, color, FIGURES[name].label)
    right.set_ylabel("share of requests")
    right.set_ylim(-0.03, 1.05)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (left, right):
        axes.set_xlabel(points[0].load.unit)
        axes.set_xlim(left=0)
        axes.legend()
    left.set_ylim(bottom=0)
    return figure


def latency_cdfs(run: Run) -> Figure | None:
    """TTFT, time to the first answer, and end to end: one curve a load."""
    points = [p for p in by_load(run) if p.repeats and p.repeats[0].cdfs.get("e2e")]
    if not points:
        return None
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    figure.suptitle("Distribution of latencies")
    axes_of = figure.subplots(1, 3, sharey=True)
    for axes, name, title in zip(
        axes_of, ("ttft", "ttfa", "e2e"), ("TTFT", "first answer token", "end to end"), strict=True
    ):
        for number, point in enumerate(points):
            values = sorted(value for it in point.repeats for value in it.cdfs.get(name, ()))
            if values:
                shares = [(i + 1) / len(values) for i in range(len(values))]
                shade = _shade(number, len(points))
                axes.plot(values, shares, color=shade, label=_label(point))
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
        axes.set_xlabel(f"{title} (ms)")
        _dress(axes)
    axes_of[0].set_ylabel("share of requests")
    axes_of[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes_of[-1].legend(fontsize=7)
    return figure


def timeline(run: Run) -> Figure | None:
    """The first round, one load after the other: what runs and waits on the engines, and KV."""
    steps = [
        (point, point.repeats[0])
        for point in run.points
        if point.repeats and any(it.num_running is not None for it in point.repeats[0].timeline)
    ]
    if not steps:
        return None
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    figure.suptitle("Engines over time")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    offset_s = 0.0
    for point, repeat in steps:
        offset_s = _step_over_time(upper, lower, point, repeat, offset_s)
    upper.set_ylabel("requests")
    upper.legend(["running", "waiting on an engine", "in the router's line"], loc="upper left")
    upper.set_ylim(0, 1.25 * max(1.0, upper.get_ylim()[1]))
    lower.set_ylabel("KV cache in use")
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_ylim(bottom=0)
    lower.set_xlabel("seconds")
    for axes in (upper, lower):
        _dress(axes)
    return figure


def _step_over_time(
    upper: Axes, lower: Axes, point: Point, repeat: Repeat, offset_s: float
) -> float:
    """Draws one step from `offset_s` on; where the next begins."""
    known = [sample for sample in repeat.timeline if sample.num_running is not None]
    times = [offset_s + sample.at_s for sample in known]
    upper.plot(times, [sample.num_running or 0 for sample in known], color=BLUE)
    upper.plot(times, [sample.num_waiting or 0 for sample in known], color=RED)
    upper.plot(times, [sample.num_queued or 0 for sample in known], color=ORANGE)
    lower.plot(times, [sample.kv_use or 0.0 for sample in known], color=GREEN)
    for axes in (upper, lower):
        axes.axvspan(offset_s + repeat.begin_s, offset_s + repeat.end_s, color=GREY, alpha=0.12)
    upper.annotate(
        _label(point),
        (offset_s + (repeat.begin_s + repeat.end_s) / 2, 0.97),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="top",
        fontsize=7,
    )
    return max([*times, offset_s + repeat.end_s]) + 1.0


def lengths(run: Run) -> Figure | None:
    """Of prompts, traces and answers, as they were counted."""
    found: dict[str, list[int]] = {
        phase: [n for p in run.points for it in p.repeats for n in it.tokens.get(phase, ())]
        for phase in _PHASES
    }
    if not any(found.values()):
        return None
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    figure.suptitle(_plain(f"Lengths in the workload {run.workload.name!r}"))
    for axes, (phase, color) in zip(figure.subplots(1, 3), _PHASES.items(), strict=True):
        values = found[phase]
        axes.hist(values, bins=min(30, len(set(values)) or 1), color=color)
        axes.set_xlabel(f"{phase} tokens")
        axes.set_ylabel("requests")
        _dress(axes)
    return figure


PLOTS: dict[str, Plot] = {
    "latency-throughput": latency_against_throughput,
    "goodput": goodput_against_load,
    "latencies": latency_cdfs,
    "timeline": timeline,
    "lengths": lengths,
}


def save(figure: Figure, path: Path) -> None:
    """As PNG or SVG, by the path's suffix."""
    figure.savefig(path, dpi=130)


def by_load(run: Run) -> list[Point]:
    return sorted((point for point in run.points if point.repeats), key=lambda it: it.load.value)


def _label(point: Point) -> str:
    return _plain(point.load.label)


def _plain(text: str) -> str:
    """Text in which a dollar is a dollar and begins no formula."""
    return text.replace("$", r"\$")


def _means(point: Point) -> dict[str, float]:
    return {name: it.mean for name, it in point.estimates().items()} | {"load": point.load.value}


def _curve(
    axes: Axes, points: Sequence[Point], x: str, y: str, color: str, label: str | None = None
) -> None:
    """With the confidence interval as a band, where there are repeats."""
    drawn = [point for point in points if y in point.estimates()]
    if not drawn:
        return
    loads = [_means(point)[x] for point in drawn]
    estimates = [point.estimates()[y] for point in drawn]
    means = [estimate.mean for estimate in estimates]
    axes.plot(loads, means, "o-", color=color, markersize=4, label=label or FIGURES[y].label)
    lows, highs = [it.low for it in estimates], [it.high for it in estimates]
    axes.fill_between(loads, lows, highs, color=color, alpha=0.15, linewidth=0)
    _dress(axes)


def _mark(axes: Axes, point: Point | None, label: str, color: str, style: str) -> None:
    if point is not None:
        x = _means(point)["output_tokens_per_s"]
        axes.axvline(x, color=color, linestyle=style, label=f"{label}: {_label(point)}")


def _scale(axes: Axes) -> None:
    """From zero; where the values span more than a decade, logarithmic with plain numbers."""
    values = [float(y) for line in axes.get_lines() for y in np.atleast_1d(line.get_ydata())]
    known = [value for value in values if value > 1]
    if known and max(known) > 10 * min(known):
        axes.set_yscale("log")
        axes.set_ylim(min(known) / 2, max(known) * 2)
        _plain_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, max(known, default=1.0) * 1.25)


def _plain_ticks(axis: Axis) -> None:
    """1, 2, 5, 10, … instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _two(title: str) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def _dress(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _shade(number: int, count: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](0.9 * number / max(1, count - 1))
    return red, green, blue, alpha
