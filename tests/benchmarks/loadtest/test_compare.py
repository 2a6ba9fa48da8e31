"""Two tests side by side."""

from __future__ import annotations

import pytest

from benchmarks.loadtest.compare import compare, is_worse
from benchmarks.loadtest.estimate import estimate
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.store import Machine, Point, Repeat, Run
from benchmarks.loadtest.workload import Workload
from benchmarks.slo import Slo
from serve.settings import SettingsError

MACHINE = Machine("Linux", "a processor", 2, 0.0)


def run(*values: float, name: str = "e2e_p50_ms", seed: int = 1, load: float = 4) -> Run:
    """A test of one load with a repeat for each value."""
    point = Point(Load("concurrency", load), [Repeat({name: value}) for value in values])
    workload = Workload(name="w", seed=seed)
    return Run("r", "now", "cmd", "http://e", "m", workload, Slo(), MACHINE, points=[point])


def verdict(before: Run, after: Run) -> str:
    (difference,) = compare(before, after)
    return difference.verdict


def test_a_difference_beyond_the_noise_counts_by_which_way_is_better() -> None:
    assert verdict(run(100, 101, 99), run(120, 121, 119)) == "worse"
    assert verdict(run(100, 101, 99), run(80, 81, 79)) == "better"
    name = "output_tokens_per_s"
    assert verdict(run(100, 101, 99, name=name), run(120, 121, 119, name=name)) == "better"


def test_noise_of_either_test_makes_it_the_same() -> None:
    assert verdict(run(100, 140, 60), run(120, 121, 119)) == "same"
    assert verdict(run(100, 101, 99), run(120, 160, 80)) == "same"


def test_small_differences_are_the_same_however_exact() -> None:
    assert verdict(run(100, 100, 100), run(102, 102, 102)) == "same"
    assert verdict(run(100, 100, 100), run(104, 104, 104)) == "worse"


def test_without_repeats_a_tenth_is_noise() -> None:
    assert verdict(run(100), run(109)) == "same"
    assert verdict(run(100), run(112)) == "worse"


def test_shares_are_compared_in_points() -> None:
    name = "answered"
    assert verdict(run(0.99, 0.99, 0.99, name=name), run(0.98, 0.98, 0.98, name=name)) == "same"
    assert verdict(run(0.99, 0.99, 0.99, name=name), run(0.95, 0.95, 0.95, name=name)) == "worse"
    failed = "failed"
    assert verdict(run(0.0, 0.0, 0.0, name=failed), run(0.1, 0.1, 0.1, name=failed)) == "worse"


def test_something_worse_is_enough() -> None:
    assert is_worse(compare(run(100), run(200)))
    assert not is_worse(compare(run(200), run(100)))


def test_what_can_not_be_compared_is_refused() -> None:
    with pytest.raises(SettingsError, match="different workloads"):
        compare(run(1), run(1, seed=2))
    with pytest.raises(SettingsError, match="no load in common: 4 at a time and 8 at a time"):
        compare(run(1), run(1, load=8))


def test_an_estimate_has_students_interval_from_three_repeats_on() -> None:
    assert estimate([5.0, 7.0]).margin is None
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.margin == pytest.approx(4.303 / 3**0.5, rel=1e-3)
