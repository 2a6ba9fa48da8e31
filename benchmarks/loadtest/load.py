"""When conversations begin: arrivals of an open loop, or so many at a time in a closed one. Pure.

Open loops are for what a service does under a given demand; closed loops for what it does with so
many users who wait for each answer. A closed loop slows down with the server and so never shows a
queue that grows; an open loop does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import msgspec

from benchmarks.loadtest.lines import read_lines
from serve.settings import SettingsError

Kind = Literal["rate", "concurrency", "batch"]


class Load(msgspec.Struct, frozen=True):
    """One load point. `rate`: conversations per second; `concurrency`: conversations at a time;
    `batch`: so many conversations, all at once, until they have ended."""

    kind: Kind
    value: float
    burstiness: float = 1.0
    """Of a rate: the squared coefficient of variation of the gaps. 1: Poisson; more: in bunches
    (gamma); 0: evenly."""
    ramp_s: float = 0.0
    """Over so long the load rises from nothing to its value."""
    trace: str = ""
    """A file of arrivals to replay instead; `value` is then its speed."""

    @property
    def label(self) -> str:
        if self.trace:
            return f"{Path(self.trace).name} x {self.value:g}"
        return f"{self.value:g}{_SHORT[self.kind]}"

    @property
    def unit(self) -> str:
        return "speed of the trace" if self.trace else _UNITS[self.kind]


_SHORT: dict[Kind, str] = {"rate": "/s", "concurrency": " at a time", "batch": " at once"}
_UNITS: dict[Kind, str] = {
    "rate": "conversations begun per second",
    "concurrency": "conversations at a time",
    "batch": "conversations at once",
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a conversation begins; of a trace also how long it is, in tokens."""

    at_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def arrivals(load: Load, rng: Random) -> Iterator[Arrival]:
    """Without end, unless they come from a trace."""
    return replayed(load) if load.trace else drawn(load, rng)


def drawn(load: Load, rng: Random) -> Iterator[Arrival]:
    """A renewal process with gamma gaps. During the ramp its time is stretched so that the rate
    rises in a line: expected arrivals by t are value * t^2 / (2 * ramp)."""
    number = 0.0
    while True:
        number += _gap(load.burstiness, rng)
        in_ramp = load.value * load.ramp_s / 2
        if number < in_ramp:
            at_s = (2 * number * load.ramp_s / load.value) ** 0.5
        else:
            at_s = load.ramp_s + (number - in_ramp) / load.value
        yield Arrival(at_s)


def _gap(burstiness: float, rng: Random) -> float:
    """With mean 1."""
    if burstiness <= 0:
        return 1.0
    if burstiness == 1:
        return rng.expovariate(1.0)
    return rng.gammavariate(1 / burstiness, burstiness)


class _Line(msgspec.Struct):
    """Of a trace in Mooncake's form, which AIPerf and vLLM replay too: `timestamp` in ms."""

    timestamp: float
    input_length: int | None = None
    output_length: int | None = None


def read_trace(path: str) -> list[_Line]:
    """Raises `SettingsError` for a file that isn't a trace, or an empty one."""
    form = '{"timestamp": ms}, with `input_length` and `output_length` in tokens if you like'
    lines = list(read_lines(Path(path), _Line, form))
    if not lines:
        raise SettingsError(f"{path}: no arrivals in it; each line is {form}")
    return lines


def replayed(load: Load) -> Iterator[Arrival]:
    """Its first arrival is at 0. Raises `SettingsError`."""
    lines = sorted(read_trace(load.trace), key=lambda line: line.timestamp)
    for line in lines:
        at_s = (line.timestamp - lines[0].timestamp) / 1000 / load.value
        yield Arrival(at_s, line.input_length, line.output_length)
