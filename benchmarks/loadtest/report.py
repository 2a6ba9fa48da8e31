"""Shows a test: a table on the terminal, one HTML page that needs nothing else, PNGs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from benchmarks.loadtest.estimate import Estimate
from benchmarks.loadtest.figures import ENOUGH_FOR_P99, FIGURES
from benchmarks.loadtest.plan import knee, most_efficient
from benchmarks.loadtest.plots import PLOTS, by_load, save
from benchmarks.loadtest.store import Point, Run

ROWS = (
    "num_requests", "requests_per_s", "output_tokens_per_s", "goodput_per_s", "good",
    "ttft_p50_ms", "ttft_p99_ms", "ttfa_p50_ms", "tpot_p50_ms", "itl_p99_ms", "e2e_p50_ms",
    "e2e_p99_ms", "answered", "right",
)  # fmt: skip
"""Of the terminal's table; the page has every figure."""


MANY_UNFINISHED = 0.01


def shown(name: str, value: float) -> str:
    """A figure's value for people, without its unit; shares in per cent."""
    if FIGURES[name].unit == "share":
        return f"{100 * value:.1f} %"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def with_margin(name: str, estimate: Estimate) -> str:
    text = shown(name, estimate.mean)
    if not estimate.margin:
        return text
    number, _, unit = text.partition(" ")
    return f"{number} ± {shown(name, estimate.margin).partition(' ')[0]} {unit}".strip()


def headed(name: str) -> str:
    figure = FIGURES[name]
    return f"{figure.label} ({figure.unit})" if figure.unit in ("ms", "µs", "MiB") else figure.label


def terminal_table(run: Run) -> Table:
    """One column a load."""
    points = by_load(run)
    found = [point.estimates() for point in points]
    table = Table(title=escape(f"{run.workload.name} on {run.model}; limits: {run.slo.text}"))
    table.add_column("")
    for point in points:
        table.add_column(escape(point.load.label), justify="right")
    for name in ROWS:
        if any(name in estimates for estimates in found):
            cells = [with_margin(name, it[name]) if name in it else "-" for it in found]
            table.add_row(headed(name), *cells)
    return table


def conclusions(run: Run) -> Iterator[str]:
    """What the test says, in sentences; first what limits its worth."""
    if run.interrupted:
        yield "The test was interrupted; what had been measured until then is here."
    yield from (f"Beware: {warning}." for warning in dict.fromkeys(run.warnings))
    points, share = by_load(run), run.slo.share
    if not points:
        return
    best, efficient = knee(points, share), most_efficient(points)
    if best is None:
        yield (
            f"No load tried kept to the limits ({run.slo.text}) in {100 * share:g} % of the"
            " requests; a search from lower ones needs --start."
        )
    else:
        yield _carried(best, is_highest=best is points[-1])
    if any(estimate.mean > MANY_UNFINISHED for estimate in _each(points, "unfinished")):
        yield "Where requests were unfinished, latencies are at least what is shown."
    if any(estimate.mean < ENOUGH_FOR_P99 for estimate in _each(points, "num_requests")):
        yield f"A p99 of fewer than {ENOUGH_FOR_P99} requests is one or two of them: take it so."
    if efficient is not None and "e2e_p50_ms" in efficient.estimates():
        yield f"Throughput over latency was best at {efficient.load.label}."


def _each(points: Sequence[Point], name: str) -> list[Estimate]:
    return [found[name] for point in points if name in (found := point.estimates())]


def _carried(best: Point, is_highest: bool) -> str:
    estimates = best.estimates()
    parts = [
        f"{shown(name, estimates[name].mean)} {what}"
        for name, what in (("goodput_per_s", "good requests"), ("output_tokens_per_s", "tokens"))
        if name in estimates
    ]
    beyond = "; none above it was tried" if is_highest else "; those above it broke them"
    carried = f"the highest load within the limits was {best.load.label}"
    return f"Of those tried, {carried}: {' and '.join(parts)} per second{beyond}."


def write_report(run: Run, directory: Path) -> list[Path]:
    """`report.html` and a PNG for each plot; their paths, the page's first."""
    page, written = directory / "report.html", []
    drawings = []
    for name, plot in PLOTS.items():
        path = directory / f"{name}.png"
        figure = plot(run)
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        save(figure, path)
        written.append(path)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg")
        drawings.append(Markup(drawing.getvalue().partition("<svg")[2].join(("<svg", ""))))
    page.write_text(_render(run, drawings), encoding="utf-8")
    return [page, *written]


def _render(run: Run, drawings: list[Markup]) -> str:
    points = by_load(run)
    found = [point.estimates() for point in points]
    names = [name for name in FIGURES if any(name in estimates for estimates in found)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    rows = [
        (FIGURES[name], [with_margin(name, it[name]) if name in it else "" for it in found])
        for name in names
    ]
    errors = [
        (point.load.label, text, count)
        for point in points
        for repeat in point.repeats
        for text, count in repeat.errors.items()
    ]
    return environment.from_string(template).render(
        run=run,
        conclusions=list(conclusions(run)),
        loads=[point.load.label for point in points],
        repeats=max((len(point.repeats) for point in points), default=0),
        rows=rows,
        errors=errors,
        drawings=drawings,
    )
