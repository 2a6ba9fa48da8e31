"""Arrivals: their rate, their spread, and what a trace says."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean, pvariance

import pytest

from benchmarks.loadtest.load import Arrival, Load, arrivals
from serve.settings import SettingsError


def times(load: Load, num: int = 20_000) -> list[float]:
    return [arrival.at_s for arrival in islice(arrivals(load, Random(1)), num)]


@pytest.mark.parametrize("burstiness", [0.0, 1.0, 4.0])
def test_the_rate_is_kept_and_the_gaps_vary_as_asked(burstiness: float) -> None:
    at_s = times(Load("rate", 5.0, burstiness))
    gaps = [b - a for a, b in zip([0.0, *at_s], at_s, strict=False)]
    assert fmean(gaps) == pytest.approx(1 / 5, rel=0.05)
    squared_variation = pvariance(gaps) / fmean(gaps) ** 2
    assert squared_variation == pytest.approx(burstiness, rel=0.1, abs=1e-9)


def test_a_ramp_rises_in_a_line() -> None:
    """Half its length has a quarter of its arrivals."""
    at_s = times(Load("rate", 100.0, 0.0, ramp_s=10.0))
    assert sum(t < 5 for t in at_s) == pytest.approx(125, abs=2)
    assert sum(t < 10 for t in at_s) == pytest.approx(500, abs=2)
    assert sum(10 <= t < 20 for t in at_s) == pytest.approx(1000, abs=2)


def test_times_only_rise() -> None:
    at_s = times(Load("rate", 3.0, 2.0, ramp_s=5.0))
    assert at_s == sorted(at_s)


def test_a_trace_is_replayed_from_its_first_line_at_any_speed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"timestamp": 5000, "input_length": 10, "output_length": 20}\n\n{"timestamp": 7000}\n'
    )
    load = Load("rate", 2.0, trace=str(trace))
    assert list(arrivals(load, Random(1))) == [Arrival(0.0, 10, 20), Arrival(1.0)]
    assert load.label == "trace.jsonl x 2"


def test_a_line_that_is_no_arrival_is_named(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0}\n{"time": 1}\n')
    with pytest.raises(SettingsError, match=r"trace.jsonl, line 2: .*timestamp"):
        list(arrivals(Load("rate", 1.0, trace=str(trace)), Random(1)))
