"""Two tests side by side."""

from __future__ import annotations

import pytest

from benchmarks.loadtest.compare import compare, is_worse, lost_loads, remarks
from benchmarks.loadtest.drive import Span
from benchmarks.loadtest.estimate import estimate
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.store import Point, Repeat, Run
from benchmarks.loadtest.workload import load_workload
from benchmarks.machine import Machine
from benchmarks.slo import Slo
from serve.settings import SettingsError

MACHINE = Machine("Linux", "a processor", 2, 24.0, 0.0)


def run(
    *values: float,
    name: str = "e2e_p50_ms",
    load: float = 4,
    slo: Slo | None = None,
    num: float = 500,
) -> Run:
    """A test of one load with a repeat for each value."""
    repeats = [Repeat({name: value, "num_requests": num}) for value in values]
    point = Point(Load("concurrency", load), repeats)
    parts = (load_workload("demo"), slo or Slo(), Span(), MACHINE)
    return Run("r", "now", "cmd", "http://e", "m", *parts, points=[point])


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
    assert verdict(run(100, 100, 100), run(104, 104, 104)) == "same"
    assert verdict(run(100, 100, 100), run(106, 106, 106)) == "worse"


def test_without_repeats_nothing_is_said() -> None:
    one, other = run(100), run(300)
    differences = compare(one, other)
    assert [it.verdict for it in differences] == ["unknown"]
    assert not is_worse(differences)
    assert any("three repeats" in remark for remark in remarks(one, other, differences))


def test_shares_are_compared_in_points() -> None:
    name = "answered"
    assert verdict(run(0.99, 0.99, 0.99, name=name), run(0.98, 0.98, 0.98, name=name)) == "same"
    assert verdict(run(0.99, 0.99, 0.99, name=name), run(0.95, 0.95, 0.95, name=name)) == "worse"
    failed = "failed"
    assert verdict(run(0.0, 0.0, 0.0, name=failed), run(0.1, 0.1, 0.1, name=failed)) == "worse"


def test_a_figure_that_is_gone_is_worse() -> None:
    gone = run(5, 5, 5, name="failed")
    differences = compare(run(100, 100, 100), gone)
    assert [it.verdict for it in differences] == ["gone"]
    assert is_worse(differences)


def test_a_p99_of_few_requests_is_not_compared() -> None:
    name = "e2e_p99_ms"
    assert len(compare(run(1, 1, 1, name=name), run(9, 9, 9, name=name))) == 1
    assert verdict(run(1, 1, 1, name=name), run(9, 9, 9, name=name)) == "worse"
    with pytest.raises(SettingsError, match="no load in common"):
        compare(run(1, 1, 1, name=name, num=50), run(9, 9, 9, name=name, num=50))


def test_goodput_within_other_limits_is_not_compared() -> None:
    name, stricter = "goodput_per_s", Slo(ttft_ms=100)
    one, other = run(9, 9, 9, name=name), run(1, 1, 1, name=name, slo=stricter)
    one.points += run(100, 100, 100, load=8).points
    other.points += run(100, 100, 100, load=8).points
    differences = compare(one, other)
    assert [it.figure for it in differences] == ["e2e_p50_ms"]
    assert any("Goodput is not compared" in remark for remark in remarks(one, other, differences))


def test_a_load_that_is_gone_is_told() -> None:
    both = run(100, 100, 100)
    both.points += run(100, 100, 100, load=8).points
    assert lost_loads(both, run(100, 100, 100)) == ["8 at a time"]
    assert lost_loads(run(100, 100, 100), both) == []


def test_what_can_not_be_compared_is_refused() -> None:
    other = run(1)
    other.workload = load_workload("fixed")
    with pytest.raises(SettingsError, match="different workloads"):
        compare(run(1), other)
    with pytest.raises(SettingsError, match="no load in common: 4 at a time and 8 at a time"):
        compare(run(1), run(1, load=8))


def test_an_estimate_has_students_interval_from_three_repeats_on() -> None:
    assert estimate([5.0, 7.0]).margin is None
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.margin == pytest.approx(4.303 / 3**0.5, rel=1e-3)
