"""Pictures of the Grafana dashboards without Grafana: each panel's queries, asked of a Prometheus
and drawn by matplotlib where the dashboard's JSON says. For the documentation, and to look at a
dashboard where no Grafana runs; what Grafana draws looks different.

    python -m benchmarks.dashboard_pictures --url http://127.0.0.1:9090 --minutes 10
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHBOARDS = Path(__file__).parent.parent / "k8s" / "components" / "monitoring" / "dashboards"
COLUMN_IN, ROW_IN = 0.66, 0.34
"""Of Grafana's grid of 24 columns, in inches."""
NUM_POINTS = 300
BLUE, GREEN, YELLOW, RED = "#3274d9", "#37872d", "#e0b400", "#c4162a"
COLOURS = [BLUE, "#73bf69", YELLOW, RED, "#8f3bb8", "#ff780a", GREEN, "#1f60c4"]
LEGEND: dict[str, Any] = {"ncols": 4, "fontsize": 6.5, "frameon": False, "handlelength": 1}
NAMED = {"green": GREEN, "orange": "#d9730d", "red": RED}


class Span(NamedTuple):
    """The time to show, and the window of rates."""

    start_s: float
    end_s: float
    window: str


class Line(NamedTuple):
    name: str
    times_s: list[float]
    values: list[float]


def ask(http: httpx.Client, panel: dict[str, Any], span: Span) -> list[Line]:
    """The series of all of a panel's queries; variables stand at All."""
    lines = []
    for target in panel["targets"]:
        expr = target["expr"].replace("$__rate_interval", span.window)
        parameters: dict[str, str | float] = {
            "query": re.sub(r"\$\{?(namespace|preset)\}?", ".*", expr),
            "start": span.start_s,
            "end": span.end_s,
            "step": (span.end_s - span.start_s) / NUM_POINTS,
        }
        reply = http.get("/api/v1/query_range", params=parameters).raise_for_status().json()
        for series in reply["data"]["result"]:
            times, texts = zip(*series["values"], strict=True)
            name = _named(target["legendFormat"], series["metric"])
            lines.append(Line(name, list(times), [float(text) for text in texts]))
    return lines


def _named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda it: labels.get(it[1], ""), legend) or "(none)"


def shown(value: float, unit: str) -> str:
    """A number with its unit, short."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    number = f"{value / 1000:.3g} k" if abs(value) >= 10_000 else f"{value:.3g}"
    return number + {"reqps": " req/s", "ops": " /s"}.get(unit, "")


# --- drawing ------------------------------------------------------------------------------------


def draw(board: dict[str, Any], http: httpx.Client, span: Span) -> Figure:
    from matplotlib import pyplot as plt

    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    width, height = 24 * COLUMN_IN, rows * ROW_IN
    figure = plt.figure(figsize=(width, height), facecolor="white")
    minutes = (span.end_s - span.start_s) / 60
    title_y = 1 - 0.6 / rows
    figure.text(0.008, title_y, board["title"], size=14, weight="bold", va="top")
    note = f"{minutes:.0f} minutes; drawn by benchmarks/dashboard_pictures.py, not by Grafana"
    figure.text(0.992, title_y, note, size=8, color="#666666", ha="right", va="top")
    for panel in board["panels"]:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - (at["y"] + 2) / rows
        if panel["type"] == "row":
            figure.text(0.008, top - 0.8 / rows, panel["title"], size=10, weight="bold")
            continue
        box = (left + 0.004, top - (at["h"] - 0.15) / rows, at["w"] / 24 - 0.008, at["h"] / rows)
        paint = _stat if panel["type"] == "stat" else _lines
        paint(figure, box, panel, ask(http, panel, span), span)
    return figure


Box = tuple[float, float, float, float]


def _stat(figure: Figure, box: Box, panel: dict[str, Any], lines: list[Line], span: Span) -> None:
    left, bottom, width, height = box
    defaults = panel["fieldConfig"]["defaults"]
    figure.text(left + 0.003, bottom + 0.78 * height, panel["title"], size=8, color="#444444")
    latest = [(line.name, line.values[-1]) for line in lines if line.times_s[-1] > span.end_s - 60]
    for number, (name, value) in enumerate(latest):
        steps = [it for it in defaults["thresholds"]["steps"] if value >= (it["value"] or 0)]
        colour = NAMED[steps[-1]["color"]] if steps else GREEN
        x = left + 0.003 + number * width / max(1, len(latest))
        text = shown(value, defaults["unit"])
        figure.text(x, bottom + 0.3 * height, text, size=15, weight="bold", color=colour)
        if panel["options"]["textMode"] == "value_and_name":
            figure.text(x, bottom + 0.08 * height, name, size=7, color="#666666")


def _lines(figure: Figure, box: Box, panel: dict[str, Any], lines: list[Line], span: Span) -> None:
    from matplotlib.lines import Line2D

    left, bottom, width, height = box
    axes = figure.add_axes((left + 0.035, bottom + 0.27 * height, width - 0.04, 0.58 * height))
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    axes.set_title(panel["title"], size=9, loc="left", pad=4)
    drawn = [line for line in lines if any(value == value for value in line.values)]
    if "stacking" in custom and drawn:
        _stacked(axes, drawn, span)
    else:
        for number, line in enumerate(drawn):
            style = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
            axes.plot(line.times_s, line.values, color=_colour(number), lw=1.2, drawstyle=style)
    axes.set_xlim(span.start_s, span.end_s)
    highest = defaults.get("max")
    axes.set_ylim(0, highest * 1.02 if highest else max(axes.get_ylim()[1], 1e-9))
    if custom.get("thresholdsStyle"):
        limit = defaults["thresholds"]["steps"][-1]["value"]
        if limit <= 1.5 * axes.get_ylim()[1]:
            axes.axhline(limit, color=NAMED["red"], lw=0.8, ls="--")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    minutes = round((span.end_s - span.start_s) / 60)
    ticks = [span.end_s - 60 * it for it in range(0, minutes + 1, max(1, minutes // 4))]
    axes.set_xticks(ticks, [f"−{(span.end_s - it) / 60:.0f} min" for it in ticks])
    axes.tick_params(labelsize=6.5, length=2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    names = [line.name for line in drawn]
    marks = [Line2D([], [], color=_colour(number), lw=3) for number in range(len(names))]
    axes.legend(marks[:8], names[:8], loc="upper left", bbox_to_anchor=(-0.06, -0.14), **LEGEND)


def _stacked(axes: Axes, lines: Sequence[Line], span: Span) -> None:
    """Over the times of all of them; who has no value there counts nothing."""
    times = sorted({time_s for line in lines for time_s in line.times_s})
    heights = []
    for line in lines:
        at = dict(zip(line.times_s, line.values, strict=True))
        values = [at.get(time_s, 0.0) for time_s in times]
        heights.append([0.0 if math.isnan(value) else value for value in values])
    axes.stackplot(times, *heights, colors=[_colour(n) for n in range(len(lines))], alpha=0.75)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.dashboard_pictures")
    parser.add_argument("--url", default="http://127.0.0.1:9090", help="of the Prometheus")
    parser.add_argument("--minutes", type=float, default=10, help="how far back to look")
    parser.add_argument("--window", default="20s", help="of rates: four scrapes or more")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    given = parser.parse_args()
    import matplotlib

    matplotlib.use("agg")
    now_s = time.time()
    span = Span(now_s - 60 * given.minutes, now_s, given.window)
    given.out.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=given.url, timeout=60) as http:
        for path in sorted(DASHBOARDS.glob("*.json")):
            figure = draw(json.loads(path.read_text(encoding="utf-8")), http, span)
            target = given.out / f"dashboard-{path.stem}.png"
            figure.savefig(target, dpi=90, pil_kwargs={"optimize": True})
            print(target)


if __name__ == "__main__":
    main()
