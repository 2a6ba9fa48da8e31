"""The simulation against a real engine: calibrated on some loads, it predicts others.

Starts `r1-serve engine` with the demo model on this CPU, measures its step times (`calibrate`),
then predicts a sweep of loads with mixed lengths, from the very sizes and arrival times that are
sent, and measures it.

    python -m benchmarks.planner.validate                     # both, about 5 minutes
    python -m benchmarks.planner.validate --step-times FILE   # with an earlier calibration

Files: bench-results/step-times.json (for `r1-serve plan --step-times`), the windows that it was
fitted to beside it, and bench-results/planner.json (predictions and measurements).
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from benchmarks.loadtest.client import Endpoint
from benchmarks.options import parser_for
from benchmarks.overload import Stack
from benchmarks.planner import drive, replay
from benchmarks.planner.calibrate import LEVELS, SIZES, Counts, counts_of, fit
from benchmarks.planner.calibration import Calibration, read_calibration, write_calibration
from benchmarks.planner.demand import Demand
from benchmarks.planner.quiet import quietly
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
    """What others took of the machine meanwhile (`quiet`)."""

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
    rng = Random(seed)
    times = itertools.accumulate(iter(lambda: rng.expovariate(rate), None))
    return list(itertools.takewhile(lambda at_s: at_s < seconds, times))


def staggered(size: Size, num_clients: int) -> list[Size]:
    """The clients' first replies end one after the other, else all would go on in step."""
    firsts = [max(2, size.output_tokens * (i + 1) // num_clients) for i in range(num_clients)]
    return [*(Size(size.prompt_tokens, tokens) for tokens in firsts), *[size] * 100_000]


def calibration_windows(target: drive.Target, settings: Settings) -> Iterator[Counts]:
    """The levels go round, so that what the machine does meanwhile doesn't fall on one of them."""
    for size in SIZES:
        for level in LEVELS:
            sizes = staggered(size, level)
            samples, _ = quietly(partial(_closed, target, sizes, level, settings.calibration_s))
            yield counts_of(samples, level, settings.calibration_warm_up_s, settings.calibration_s)


def sweep(target: drive.Target, model: EngineModel, settings: Settings) -> Iterator[Row]:
    sizes, seconds = sizes_of(settings), settings.seconds

    def row(load: str, predicted: list[Sample], measure: Callable[[], list[Sample]]) -> Row:
        measured, others = quietly(measure)
        begin_s = settings.warm_up_s
        expected = figures(predicted, begin_s, seconds)
        return Row(load, expected, figures(measured, begin_s, seconds), others)

    capacity = 0.0
    for num_clients in map(int, settings.clients.split(",")):
        predicted = replay.closed(model, sizes, num_clients, seconds)
        measure = partial(_closed, target, sizes, num_clients, seconds)
        yield (made := row(f"{num_clients} clients", predicted, measure))
        capacity = max(capacity, made.measured.requests_per_s)
    for share in map(float, settings.rates.split(",")):
        times_s = arrivals(share * capacity, seconds, settings.seed)
        predicted = replay.open_loop(model, sizes, times_s)
        measure = partial(_open, target, sizes, times_s)
        yield row(f"{share * capacity:.1f}/s ({share:g} of capacity)", predicted, measure)


def _closed(
    target: drive.Target, sizes: Sequence[Size], num_clients: int, seconds: float
) -> list[Sample]:
    return asyncio.run(drive.closed(target, sizes, num_clients, seconds))


def _open(target: drive.Target, sizes: Sequence[Size], times_s: Sequence[float]) -> list[Sample]:
    return asyncio.run(drive.open_loop(target, sizes, times_s))


def render(rows: Sequence[Row]) -> str:
    titles = ["load"]
    for name in FIGURES.values():
        titles += [f"{name} predicted", "measured", "error"]
    titles += ["others' CPU"]
    lines = [titles]
    for row in rows:
        line = [row.load]
        for field in FIGURES:
            values = (getattr(row.predicted, field), getattr(row.measured, field))
            line += [*(f"{value:.3g}" for value in values), f"{100 * row.error(field):+.0f} %"]
        lines.append([*line, f"{row.others_cores:.2f}"])
    return table(lines)


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
    out.parent.mkdir(exist_ok=True)
    with ExitStack() as stack:
        target = _started(stack)
        if settings.step_times:
            calibration = read_calibration(Path(settings.step_times))
        else:
            calibration = _calibrated(target, settings, out.with_name("step-times.json"))
        _validate(target, settings, calibration)


def _started(stack: ExitStack) -> drive.Target:
    """A warm engine."""
    engine = Stack(stack).engine
    target = asyncio.run(drive.find_template(Endpoint(engine, "r1-demo")))
    for level in (1, 8, 64):
        asyncio.run(drive.closed(target, SIZES, level, 2))
    return target


def _calibrated(target: drive.Target, settings: Settings, path: Path) -> Calibration:
    windows = []
    for window in calibration_windows(target, settings):
        windows.append(window)
        print(window, flush=True)
    calibration = fit(windows, CPU_LIMITS, "the demo model on this CPU (configs/cpu.toml)")
    write_calibration(path, calibration)
    path.with_suffix(".windows.json").write_bytes(msgspec.json.encode(windows))
    print(msgspec.json.encode(calibration).decode(), flush=True)
    return calibration


def _validate(target: drive.Target, settings: Settings, calibration: Calibration) -> None:
    rows: list[Row] = []
    for row in sweep(target, calibration.model, settings):
        rows.append(row)
        print(render(rows[-1:]), flush=True)
        text = msgspec.json.format(msgspec.json.encode(rows), indent=2)
        Path(settings.out).write_bytes(text)  # what is measured isn't lost where it is cut off
    print(render(rows))
    print(summary(rows))


if __name__ == "__main__":
    main()
