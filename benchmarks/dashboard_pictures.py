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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHBOARDS = Path(__file__).parent.parent / "k8s" / "components" / "monitoring" / "dashboards"
COLUMN_IN, ROW_IN = 0.66, 0.34
"""Of Grafana's grid of 24 columns, in inches."""
NUM_POINTS = 300
COLOURS = ["#3274d9", "#73bf69", "#e0b400", "#8f3bb8", "#ff780a", "#c4162a", "#37872d", "#1f60c4"]
LEGEND: dict[str, Any] = {"ncols": 4, "fontsize": 6.5, "frameon": False, "handlelength": 1}
GRAFANAS = {"text": "tab:gray", "yellow": "gold"}
"""Of its colours, those that matplotlib's palette has by another name."""


Panel = dict[str, Any]
Box = tuple[float, float, float, float]


class Span(NamedTuple):
    """The time to show, and the window of rates."""

    start_s: float
    end_s: float
    window: str

    @property
    def step_s(self) -> float:
        return (self.end_s - self.start_s) / NUM_POINTS

    @property
    def times_s(self) -> list[float]:
        return [self.start_s + self.step_s * number for number in range(NUM_POINTS + 1)]


class Line(NamedTuple):
    """A value at each of the span's times, NaN where there is none."""

    name: str
    values: list[float]
    colour: str


def ask(http: httpx.Client, panel: Panel, span: Span) -> list[Line]:
    """The series of all of a panel's queries; variables stand at All."""
    colours = {
        override["matcher"]["options"]: _colour(override["properties"][0]["value"]["fixedColor"])
        for override in panel["fieldConfig"]["overrides"]
    }
    lines: list[Line] = []
    for target in panel["targets"]:
        expr = target["expr"].replace("$__rate_interval", span.window)
        parameters: dict[str, str | float] = {
            "query": re.sub(r"\$\{?(namespace|preset)\}?", ".*", expr),
            "start": span.start_s,
            "end": span.end_s,
            "step": span.step_s,
        }
        reply = http.get("/api/v1/query_range", params=parameters).raise_for_status().json()
        for series in reply["data"]["result"]:
            values = [math.nan] * (NUM_POINTS + 1)
            for time_s, text in series["values"]:
                values[round((time_s - span.start_s) / span.step_s)] = float(text)
            if any(not math.isnan(value) for value in values):
                name = _named(target["legendFormat"], series["metric"])
                colour = colours.get(name, COLOURS[len(lines) % len(COLOURS)])
                lines.append(Line(name, values, colour))
    return lines


def _named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda it: labels.get(it[1], ""), legend) or "(none)"


def _colour(grafanas: str) -> str:
    return GRAFANAS.get(grafanas, f"tab:{grafanas}")


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
    number = f"{value / 1000:.3g} k" if abs(value) >= 1000 else f"{value:.3g}"
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
        lines = ask(http, panel, span)
        if panel["type"] == "stat":
            _stat(figure, box, panel, lines)
        else:
            _lines(figure, box, panel, lines, span)
    return figure


def _stat(figure: Figure, box: Box, panel: Panel, lines: list[Line]) -> None:
    left, bottom, width, height = box
    defaults = panel["fieldConfig"]["defaults"]
    figure.text(left + 0.003, bottom + 0.78 * height, panel["title"], size=8, color="#444444")
    for number, line in enumerate(lines):
        value = next(it for it in reversed(line.values) if not math.isnan(it))
        steps = [it for it in defaults["thresholds"]["steps"] if value >= (it["value"] or 0)]
        colour = _colour(steps[-1]["color"] if steps else "green")
        x = left + 0.003 + number * width / len(lines)
        text = shown(value, defaults["unit"])
        figure.text(x, bottom + 0.3 * height, text, size=15, weight="bold", color=colour)
        if panel["options"]["textMode"] == "value_and_name":
            figure.text(x, bottom + 0.08 * height, line.name, size=7, color="#666666")


def _lines(figure: Figure, box: Box, panel: Panel, lines: list[Line], span: Span) -> None:
    from matplotlib.lines import Line2D

    left, bottom, width, height = box
    axes = figure.add_axes((left + 0.035, bottom + 0.27 * height, width - 0.04, 0.58 * height))
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    axes.set_title(panel["title"], size=9, loc="left", pad=4)
    if "stacking" in custom and lines:
        heights = [[0.0 if math.isnan(it) else it for it in line.values] for line in lines]
        axes.stackplot(span.times_s, *heights, colors=[line.colour for line in lines], alpha=0.75)
    else:
        for line in lines:
            style = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
            axes.plot(span.times_s, line.values, color=line.colour, lw=1.2, drawstyle=style)
    axes.set_xlim(span.start_s, span.end_s)
    highest = defaults.get("max")
    axes.set_ylim(0, highest * 1.02 if highest else max(axes.get_ylim()[1], 1e-9))
    if custom.get("thresholdsStyle"):
        limit = defaults["thresholds"]["steps"][-1]["value"]
        if limit <= 1.5 * axes.get_ylim()[1]:
            axes.axhline(limit, color="tab:red", lw=0.8, ls="--")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    minutes = round((span.end_s - span.start_s) / 60)
    ago = range(0, minutes + 1, max(1, minutes // 4))
    names = [f"−{it} min" if it else "now" for it in ago]
    axes.set_xticks([span.end_s - 60 * it for it in ago], names)
    axes.tick_params(labelsize=6.5, length=2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    marks = [Line2D([], [], color=line.colour, lw=3) for line in lines]
    names = [line.name for line in lines]
    axes.legend(marks[:8], names[:8], loc="upper left", bbox_to_anchor=(-0.06, -0.14), **LEGEND)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.dashboard_pictures")
    parser.add_argument("--url", default="http://127.0.0.1:9090", help="of the Prometheus")
    parser.add_argument("--minutes", type=float, default=10, help="how far back to look")
    parser.add_argument("--window", default="20s", help="of rates: four scrapes or more")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    parser.add_argument("--end", type=float, default=time.time(), help="Unix time; else now")
    given = parser.parse_args()
    import matplotlib
    from PIL import Image

    matplotlib.use("agg")
    span = Span(given.end - 60 * given.minutes, given.end, given.window)
    given.out.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=given.url, timeout=60) as http:
        for path in sorted(DASHBOARDS.glob("*.json")):
            figure = draw(json.loads(path.read_text(encoding="utf-8")), http, span)
            target = given.out / f"dashboard-{path.stem}.png"
            figure.savefig(target, dpi=90)
            Image.open(target).quantize(64).save(target, optimize=True)
            print(target)


if __name__ == "__main__":
    main()
