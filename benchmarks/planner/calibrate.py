"""Step times of a real engine, from what its clients see.

Closed loops of 1 to 64 clients, each with requests of one size, of several sizes one after the
other. A window of such a loop takes

    seconds = steps x by_running(clients) + prompt tokens x prefill_token_s
              + KV tokens read x kv_token_s + requests x request_s + requests / clients x outside_s

with the steps (output tokens / clients) and all the other counts known: least squares over all
windows gives the coefficients. `outside_s` is a client's time for which the engine has nothing of
it. The client's own CPU is in all of them, so measure with the client that is to be predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.planner.calibration import Calibration
from benchmarks.planner.samples import Sample, Size
from benchmarks.planner.sequence import Limits
from benchmarks.planner.step_times import StepTimes

LEVELS = (1, 2, 4, 8, 16, 32, 64)
SIZES = (Size(24, 200), Size(24, 32), Size(400, 200), Size(400, 32))
_LINEAR = ("kv_token_s", "prefill_token_s", "request_s", "outside_s")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a window of a closed loop held."""

    num_clients: int
    seconds: float
    steps: float
    kv_tokens: float
    """Summed over the steps."""
    prompt_tokens: float
    requests: float

    @property
    def linear(self) -> tuple[float, ...]:
        """In the order of `_LINEAR`."""
        outside = self.requests / self.num_clients
        return (self.kv_tokens, self.prompt_tokens, self.requests, outside)


def counts_of(samples: Sequence[Sample], num_clients: int, begin_s: float, end_s: float) -> Counts:
    shares = [(sample.size, sample.share_within(begin_s, end_s)) for sample in samples]
    output = sum(size.output_tokens * share for size, share in shares)
    kv = sum(
        share * size.output_tokens * (size.prompt_tokens + size.output_tokens / 2)
        for size, share in shares
    )
    return Counts(
        num_clients=num_clients,
        seconds=end_s - begin_s,
        steps=output / num_clients,
        kv_tokens=kv,
        prompt_tokens=sum(size.prompt_tokens * share for size, share in shares),
        requests=sum(share for _, share in shares),
    )


def fit(windows: Sequence[Counts], limits: Limits, engine: str) -> Calibration:
    """Relative errors are what is made small. A coefficient that would be negative is left out."""
    levels = sorted({window.num_clients for window in windows})
    names = [*map(str, levels), *_LINEAR]
    rows = np.zeros((len(windows), len(names)))
    for row, window in zip(rows, windows, strict=True):
        row[levels.index(window.num_clients)] = window.steps
        row[len(levels) :] = window.linear
        row /= window.seconds
    found = dict(zip(names, _least_squares(rows), strict=True))
    by_running = tuple((level, found[str(level)]) for level in levels)
    times = StepTimes(
        by_running=by_running,
        kv_token_s=found["kv_token_s"],
        prefill_token_s=found["prefill_token_s"],
        request_s=found["request_s"],
    )
    return Calibration(step_times=times, limits=limits, outside_s=found["outside_s"], engine=engine)


def _least_squares(rows: np.ndarray) -> list[float]:
    """Of rows x = 1, no part of x negative."""
    active = np.ones(rows.shape[1], dtype=bool)
    found = np.zeros(rows.shape[1])
    while active.any():
        found[:] = 0.0
        found[active] = np.linalg.lstsq(rows[:, active], np.ones(len(rows)), rcond=None)[0]
        if (found >= 0).all():
            break
        active &= found > 0
    return [float(value) for value in found]
