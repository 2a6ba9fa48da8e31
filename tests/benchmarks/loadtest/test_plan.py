"""Which loads a sweep tries, and where it finds the knee."""

from __future__ import annotations

import pytest

from benchmarks.loadtest.load import Load
from benchmarks.loadtest.plan import Sweep, knee, most_efficient, next_load
from benchmarks.loadtest.store import Point, Repeat


def tried(sweep: Sweep, limit: float) -> list[float]:
    """The loads that a sweep tries on a server that carries up to `limit`."""
    points: list[Point] = []
    while (load := next_load(sweep, points, 0.9)) is not None:
        points.append(point(load.value, good=1.0 if load.value <= limit else 0.4))
        assert len(points) < 50
    return [it.load.value for it in points]


def point(value: float, **figures: float) -> Point:
    return Point(Load("concurrency", value), [Repeat(figures)])


def test_given_loads_are_tried_in_their_order() -> None:
    assert tried(Sweep("concurrency", (4, 1, 16)), 2) == [4, 1, 16]


def test_a_sweep_ends_where_too_few_are_good() -> None:
    assert tried(Sweep("concurrency", (1, 2, 4, 8), stop_below=0.5), 2) == [1, 2, 4]


@pytest.mark.parametrize("kind", ["rate", "concurrency"])
@pytest.mark.parametrize("limit", [3.0, 7.5, 40.0])
def test_a_search_finds_the_limit(kind: str, limit: float) -> None:
    """Within a factor, going beyond it twice."""
    loads = tried(Sweep("rate" if kind == "rate" else "concurrency"), limit)
    carried = [load for load in loads if load <= limit]
    beyond = [load for load in loads if load > limit]
    assert max(carried) >= limit / 1.6
    assert min(beyond) <= 1.6 * limit + 1
    assert 2 <= len(beyond) <= 3
    assert len(set(loads)) == len(loads)


def test_a_search_goes_down_where_its_first_load_is_too_much() -> None:
    loads = tried(Sweep("rate", start=8.0), 0.7)
    assert loads[:2] == [8.0, 3.12]
    assert 0.7 / 2.56 <= max(load for load in loads if load <= 0.7) <= 0.7


def test_one_bad_point_ends_no_search() -> None:
    points: list[Point] = []
    while (load := next_load(Sweep(), points, 0.9)) is not None:
        is_blip = len(points) == 1
        points.append(point(load.value, good=0.5 if is_blip or load.value > 20 else 1.0))
    best = knee(points, 0.9)
    assert best is not None
    assert 20 / 1.6 <= best.load.value <= 20


def test_a_search_gives_up_where_nothing_is_carried_everything_is_or_nothing_is_known() -> None:
    assert len(tried(Sweep("rate"), 0)) == 6
    assert len(tried(Sweep(), 0)) == 1
    assert len(tried(Sweep(), 1e9)) == 12
    assert next_load(Sweep(), [point(1, num_requests=0.0)], 0.9) is None


def test_the_knee_is_the_highest_load_that_is_carried() -> None:
    points = [point(1, good=1.0), point(8, good=0.5), point(4, good=0.95), point(2, good=0.9)]
    best = knee(points, 0.9)
    assert best is not None
    assert best.load.value == 4
    assert knee([point(1, good=0.89)], 0.9) is None


def test_what_was_interrupted_counts_only_where_there_is_nothing_else() -> None:
    both = Point(Load("rate", 1.0), [Repeat({"good": 1.0}), Repeat({"good": 0.2})])
    both.repeats[1].interrupted = True
    assert both.estimates()["good"].mean == 1.0
    del both.repeats[0]
    assert both.estimates()["good"].mean == 0.2


@pytest.mark.parametrize("rate", [0.0001, 0.004567, 123.456])
def test_small_rates_stay_rates(rate: float) -> None:
    assert Sweep("rate").load(rate).value == pytest.approx(rate, rel=0.005)


def test_the_most_efficient_load_has_the_most_throughput_for_its_latency() -> None:
    points = [
        point(1, output_tokens_per_s=100.0, e2e_p50_ms=100.0),
        point(4, output_tokens_per_s=300.0, e2e_p50_ms=150.0),
        point(16, output_tokens_per_s=330.0, e2e_p50_ms=600.0),
    ]
    best = most_efficient(points)
    assert best is not None
    assert best.load.value == 4
