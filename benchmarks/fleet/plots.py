"""Pictures of what `benchmarks.fleet` found, a PNG for each experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fleet.experiments import BURST_S, FAULT_S, run_name
from benchmarks.fleet.figures import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Mapping[str, Run]
COLOURS = {
    "round_robin": "#999999",
    "least_loaded": "#4477aa",
    "prefix_affinity": "#cc6677",
    "prefix_affinity, limited": "#882255",
}
FIRST, SECOND, THIRD, OFFERED = "#4477aa", "#cc6677", "#228833", "#bbbbbb"


def draw(experiments: Mapping[str, Runs], directory: Path) -> None:
    """`fleet-NAME.png` for each that is there."""
    import matplotlib

    matplotlib.use("agg")
    directory.mkdir(parents=True, exist_ok=True)
    painters: Mapping[str, Callable[[Runs], Figure]] = {
        "balancing": balancing,
        "brownout": brownout,
        "autoscaling": autoscaling,
        "faults": faults,
    }
    for name, runs in experiments.items():
        figure = painters[name](runs)
        figure.savefig(directory / f"fleet-{name}.png", dpi=100, pil_kwargs={"optimize": True})


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for ax in flat:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, flat


# ---- balancing ----


def balancing(runs: Runs) -> Figure:
    """Over fleets of each size, below over numbers of routers."""
    parsed = [(*_parsed(name), run) for name, run in runs.items()]
    most = max(num for num, _, _, _ in parsed)
    sizes = [(num, policy, run) for num, routers, policy, run in parsed if routers == 8]
    routers = [(routers, policy, run) for num, routers, policy, run in parsed if num == most]
    figure, axes = _figure(2, 3, 10, 6)
    for row, (points, label) in enumerate(
        [(sizes, "replicas (8 routers)"), (routers, f"routers ({most:,} replicas)")]
    ):
        for ax, key, title in zip(
            axes[3 * row : 3 * row + 3],
            ("ttft_p99_s", "prefix_hits", "spread"),
            ("TTFT p99, s", "prompt tokens found cached, %", "requests: busiest / mean"),
            strict=True,
        ):
            _over(ax, points, key, 100 if key == "prefix_hits" else 1)
            ax.set(xlabel=label, title=title)
            if key == "ttft_p99_s":
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter("{x:g}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _parsed(name: str) -> tuple[int, int, str]:
    """The inverse of `run_name`."""
    num, routers, policy = name.split(", ", 2)
    parsed = int(num.split()[0]), int(routers.split()[0]), policy
    assert run_name(*parsed) == name
    return parsed


def _over(ax: Axes, points: Sequence[tuple[int, str, Run]], key: str, factor: float) -> None:
    for policy, colour in COLOURS.items():
        line = sorted((x, factor * run.value(key)) for x, its, run in points if its == policy)
        if line:
            marker = "D" if policy.endswith("limited") else "o"
            ax.plot(*zip(*line, strict=True), marker + "-", color=colour, label=policy)
    ax.set_xscale("log")
    ticks = sorted({x for x, _, _ in points})
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()


# ---- over time ----


def brownout(runs: Runs) -> Figure:
    off, on = runs["without brownout"], runs["with brownout"]
    figure, (rates, refused, kept) = _figure(3, 1, 8, 7)
    _line(rates, off, "offered_per_s", OFFERED, "offered (first tries)")
    for run, colour, name in ((off, FIRST, "without brownout"), (on, SECOND, "with brownout")):
        _line(rates, run, "good_per_s", colour, name)
        _line(refused, run, "refused_per_s", colour, name)
        _line(kept, run, "thinking_kept", colour, name, 100)
    anywhere = runs["without, retries anywhere"]
    _line(rates, anywhere, "good_per_s", THIRD, "without, retries to any router", style="--")
    _line(refused, anywhere, "refused_per_s", THIRD, "without, retries to any router", style="--")
    rates.set(ylabel="per second", title="offered, and good answers")
    refused.set(ylabel="per second", title="refusals, of first and later tries")
    kept.set(ylabel="%", title="thinking tokens kept", xlabel="seconds", ylim=(0, 105))
    for ax in (rates, refused, kept):
        ax.axvspan(*BURST_S, color="#eeeeee", zorder=0)
        ax.set_xlim(0, off.series("at_s")[-1])
        ax.set_ylim(bottom=0)
    rates.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def autoscaling(runs: Runs) -> Figure:
    figure, (replicas, ttft, refused) = _figure(3, 1, 8, 7)
    for (name, run), colour in zip(runs.items(), (OFFERED, FIRST, SECOND), strict=False):
        scale = 24 / run.series("at_s")[-1]
        _line(replicas, run, "num_replicas", colour, name, x_factor=scale)
        _line(ttft, run, "ttft_p99_s", colour, name, x_factor=scale)
        _line(refused, run, "refused_per_s", colour, name, x_factor=scale)
    replicas.set(title="replicas, those that start or leave included")
    ttft.set(ylabel="s", title="TTFT p99", yscale="log")
    ttft.yaxis.set_major_formatter("{x:g}")
    refused.set(ylabel="per second", title="refusals", xlabel="hour of the (compressed) day")
    replicas.set_ylim(bottom=0)
    for ax in (replicas, ttft, refused):
        ax.set_xlim(0, 24)
        ax.set_xticks(range(0, 25, 3))
    replicas.legend(frameon=False, fontsize=8)
    return figure


def faults(runs: Runs) -> Figure:
    figure, (good, ttft) = _figure(2, 1, 8, 5)
    for (name, run), colour in zip(runs.items(), (FIRST, SECOND, OFFERED), strict=False):
        _line(good, run, "good_per_s", colour, name)
        _line(ttft, run, "ttft_p99_s", colour, name, 1000)
    good.set(ylabel="per second", title="good answers")
    ttft.set(ylabel="ms", title="TTFT p99", xlabel="seconds")
    for ax in (good, ttft):
        ax.set_ylim(bottom=0)
        ax.axvline(FAULT_S, color="#888888", linewidth=1, linestyle=":")
        ax.set_xlim(0, run.series("at_s")[-1])
    good.annotate("1 in 20 dies", (FAULT_S, 0), (4, 4), textcoords="offset points", fontsize=8)
    good.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _line(
    ax: Axes,
    run: Run,
    key: str,
    colour: str,
    name: str,
    factor: float = 1,
    *,
    x_factor: float = 1,
    style: str = "-",
) -> None:
    xs = [x * x_factor for x in run.series("at_s")]
    ys = [y * factor for y in run.series(key)]
    ax.plot(xs, ys, style, color=colour, label=name, linewidth=1.5)
