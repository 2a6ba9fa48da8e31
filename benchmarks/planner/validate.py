"""The simulation against a real engine: calibrated on some loads, it predicts others.

Starts `r1-serve engine` with the demo model on this CPU, measures its step times (`calibrate`) and
a sweep of loads with mixed lengths, and predicts the sweep from the step times and the very sizes
and arrival times that were sent. Calibration and sweep take turns: a virtual machine's speed drifts
by 10 % and more within minutes, for reasons outside of it, and would else be most of the error.

    python -m benchmarks.planner.validate                     # both, about 5 minutes
    python -m benchmarks.planner.validate --step-times FILE   # with an earlier calibration

Files in bench-results/: step-times.json (for `r1-serve plan --step-times`), the windows it was
fitted to, planner.json and .md (predictions and measurements), planner-sweep.json (every request).
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import msgspec

from benchmarks.loadtest.client import Endpoint
from benchmarks.loadtest.load import Load, drawn
from benchmarks.machine import quietly
from benchmarks.options import parser_for
from benchmarks.overload import Stack
from benchmarks.planner import drive, replay
from benchmarks.planner.calibrate import LEVELS, SIZES, Counts, counts_of, fit
from benchmarks.planner.calibration import read_calibration, write_calibration
from benchmarks.planner.demand import Demand
from benchmarks.planner.samples import Figures, Sample, Size, figures
from benchmarks.planner.sequence import Limits
from benchmarks.planner.simulate import EngineModel
from benchmarks.stats import table

CPU_LIMITS = Limits(
    max_num_seqs=64, max_num_batched_tokens=4096, kv_tokens=200_000, chunked_prefill=False
)
"""What configs/cpu.toml gives the demo model; its KV is never short."""
FIGURES = {
    "tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "e2e_p50_s": "E2E p50 s",
    "ttft_p50_s": "TTFT p50 s",
}


@dataclass(frozen=True, slots=True)
class Settings:
    calibration_s: float = 4.0
    """Of each load of the calibration, `calibration_warm_up_s` of it not counted."""
    calibration_warm_up_s: float = 1.5
    seconds: float = 14.0
    """Of each load of the sweep, `warm_up_s` of it not counted."""
    warm_up_s: float = 2.5
    clients: str = "2,8,24,48"
    rates: str = "0.4,0.7,0.9"
    """Of the capacity that the closed loop with the most clients showed."""
    prompt_tokens: int = 120
    output_tokens: int = 140
    seed: int = 3
    step_times: str = ""
    """A calibration to predict from; empty: it is measured first."""
    out: str = "bench-results/planner.json"


class Row(msgspec.Struct):
    """One load, predicted and measured."""

    load: str
    predicted: Figures
    measured: Figures
    others_cores: float = 0.0
    """What others took of the machine meanwhile (`benchmarks.machine`)."""

    def error(self, field: str) -> float:
        """predicted / measured - 1."""
        predicted: float = getattr(self.predicted, field)
        measured: float = getattr(self.measured, field)
        return predicted / measured - 1


def sizes_of(settings: Settings) -> list[Size]:
    """Lognormal lengths, as the planner's."""
    demand = Demand(
        users=1,
        prompt_tokens=settings.prompt_tokens,
        think_tokens=settings.output_tokens,
        answer_tokens=0,
        context=2048,
    )
    rng = Random(settings.seed)
    requests = [demand.request(0.0, rng) for _ in range(2000)]
    return [Size(max(24, r.prompt_tokens), max(2, r.output_tokens)) for r in requests]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Poisson."""
    times = (arrival.at_s for arrival in drawn(Load("rate", rate), Random(seed)))
    return list(itertools.takewhile(lambda at_s: at_s < seconds, times))


def staggered(size: Size, num_clients: int) -> list[Size]:
    """The clients' first replies end one after the other, else all would go on in step."""
    firsts = [max(2, size.output_tokens * (i + 1) // num_clients) for i in range(num_clients)]
    return [*(Size(size.prompt_tokens, tokens) for tokens in firsts), *[size] * 100_000]


@dataclass(frozen=True, slots=True)
class Sent:
    """One load of the sweep: what was sent, and what came of it."""

    load: str
    num_clients: int
    """0: an open loop, at `times_s`."""
    times_s: list[float]
    measured: list[Sample]
    others_cores: float


class Measuring:
    """The loads that are put on `target`, one after the other; each with prompts of its own."""

    def __init__(self, target: drive.Target, settings: Settings) -> None:
        self._target, self._settings, self._num_loads = target, settings, 0

    def calibration(self, size: Size) -> Iterator[Counts]:
        """All levels with one size, in an order of its own."""
        seconds = self._settings.calibration_s
        for level in Random(repr(size)).sample(LEVELS, len(LEVELS)):
            samples, _ = self._closed(staggered(size, level), level, seconds)
            yield counts_of(samples, level, self._settings.calibration_warm_up_s, seconds)

    def sweep(self) -> Iterator[Sent]:
        sizes, seconds = sizes_of(self._settings), self._settings.seconds
        capacity = 0.0
        for num_clients in map(int, self._settings.clients.split(",")):
            samples, others = self._closed(sizes, num_clients, seconds)
            seen = figures(samples, self._settings.warm_up_s, seconds)
            capacity = max(capacity, seen.requests_per_s)
            yield Sent(f"{num_clients} clients", num_clients, [], samples, others)
        for share in map(float, self._settings.rates.split(",")):
            times_s = arrivals(share * capacity, seconds, self._settings.seed)
            samples, others = self._open(sizes, times_s)
            name = f"{share * capacity:.1f}/s ({share:g} of capacity)"
            yield Sent(name, 0, times_s, samples, others)

    def _closed(
        self, sizes: Sequence[Size], num_clients: int, seconds: float
    ) -> tuple[list[Sample], float]:
        return quietly(
            lambda: asyncio.run(drive.closed(self._fresh(), sizes, num_clients, seconds))
        )

    def _open(self, sizes: Sequence[Size], times_s: Sequence[float]) -> tuple[list[Sample], float]:
        return quietly(lambda: asyncio.run(drive.open_loop(self._fresh(), sizes, times_s)))

    def _fresh(self) -> drive.Target:
        """With other prompts than before, which are not in the prefix cache."""
        self._num_loads += 1
        return replace(self._target, salt=self._num_loads)


def predicted(sent: Sent, model: EngineModel, settings: Settings) -> Row:
    sizes, seconds = sizes_of(settings), settings.seconds
    if sent.num_clients:
        samples = replay.closed(model, sizes, sent.num_clients, seconds)
    else:
        samples = replay.open_loop(model, sizes, sent.times_s)
    pair = [figures(each, settings.warm_up_s, seconds) for each in (samples, sent.measured)]
    return Row(sent.load, pair[0], pair[1], sent.others_cores)


def lines_of(rows: Sequence[Row]) -> list[list[str]]:
    titles = ["load"]
    for name in FIGURES.values():
        titles += [f"{name} predicted", "measured", "error"]
    lines = [[*titles, "others' CPU"]]
    for row in rows:
        line = [row.load]
        for field in FIGURES:
            values = (getattr(row.predicted, field), getattr(row.measured, field))
            line += [*(_figure(value) for value in values), f"{100 * row.error(field):+.0f} %"]
        lines.append([*line, f"{row.others_cores:.2f}"])
    return lines


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def render(rows: Sequence[Row]) -> str:
    return table(lines_of(rows))


def markdown(rows: Sequence[Row]) -> str:
    """For docs/capacity.md."""
    titles, *lines = lines_of(rows)
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def summary(rows: Sequence[Row]) -> str:
    def line(field: str, name: str) -> str:
        errors = [abs(row.error(field)) for row in rows]
        mean, most = statistics.fmean(errors), max(errors)
        return f"{name}: {100 * mean:.0f} % off on average, {100 * most:.0f} % at most"

    return "\n".join(line(field, name) for field, name in FIGURES.items())


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_for(Settings(), "python -m benchmarks.planner.validate", __doc__ or "")
    settings = Settings(**vars(parser.parse_args(argv)))
    out = Path(settings.out)
    known = read_calibration(Path(settings.step_times)) if settings.step_times else None
    with ExitStack() as stack:
        measuring = Measuring(_started(stack), settings)
        windows, sent = measured(measuring, calibrates=known is None)
    calibration = known or fit(windows, CPU_LIMITS, "the demo model on this CPU (configs/cpu.toml)")
    if known is None:
        write_calibration(out.with_name("step-times.json"), calibration)
        _write(out.with_name("step-times.windows.json"), windows)
    _write(out.with_name("planner-sweep.json"), sent)
    rows = [predicted(each, calibration.model, settings) for each in sent]
    _write(out, rows)
    out.with_suffix(".md").write_text(f"{markdown(rows)}\n\n{summary(rows)}\n")
    print(render(rows))
    print(summary(rows))


def measured(measuring: Measuring, calibrates: bool) -> tuple[list[Counts], list[Sent]]:
    """Two loads of the sweep after each size of the calibration."""
    windows, sent, sweep = [], [], measuring.sweep()
    for size in SIZES:
        for window in measuring.calibration(size) if calibrates else ():
            windows.append(window)
            print(window, flush=True)
        for load in itertools.islice(sweep, 2):
            sent.append(load)
            print(f"{load.load}: {len(load.measured)} requests", flush=True)
    return windows, [*sent, *sweep]


def _write(path: Path, what: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(what), indent=2))


def _started(stack: ExitStack) -> drive.Target:
    """A warm engine."""
    engine = Stack(stack).engine
    target = asyncio.run(drive.find_template(Endpoint(engine, "r1-demo")))
    for level in (1, 8, 64):
        asyncio.run(drive.closed(target, SIZES, level, 2))
    return target


if __name__ == "__main__":
    main()
