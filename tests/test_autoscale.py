"""How many engines there should be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.autoscale import Autoscaler, Demand
from serve.load import EngineLoad
from serve.settings import AutoscaleSettings

SETTINGS = AutoscaleSettings(
    min_replicas=1,
    max_replicas=8,
    target_requests_per_replica=10,
    target_kv_cache_usage=0.5,
    scale_down_delay_s=60,
)


def load(num_running: int = 0, num_waiting: int = 0, usage: float = 0.0) -> EngineLoad:
    return EngineLoad(num_running, num_waiting, usage, ())


def test_requests_wherever_they_wait_ask_for_engines() -> None:
    """Running, waiting on the engine, waiting in the router: 31 in all need four times ten."""
    demand = Demand([load(8, 3)], num_queued=20)
    assert Autoscaler(SETTINGS).num_replicas(0, demand, 1) == 4


def test_a_full_cache_asks_too() -> None:
    """Few, long requests: three engines' worth of half a cache."""
    demand = Demand([load(2, 0, 0.9), load(2, 0, 0.5)])
    assert Autoscaler(SETTINGS).num_replicas(0, demand, 2) == 3


def test_about_the_target_is_good_enough() -> None:
    for num_requests in (18, 21):
        demand = Demand([load(num_requests)])
        assert Autoscaler(SETTINGS).num_replicas(0, demand, 2) == 2


def test_engines_that_tell_nothing_change_nothing() -> None:
    assert Autoscaler(SETTINGS).num_replicas(0, Demand([], num_queued=99), 2) == 2


def test_a_lull_ends_no_engine() -> None:
    """Only what was enough for the whole delay is."""
    scaler = Autoscaler(SETTINGS)
    assert scaler.num_replicas(0, Demand([load(40)]), 1) == 4
    assert scaler.num_replicas(30, Demand([load(0)]), 4) == 4
    assert scaler.num_replicas(59, Demand([load(15)]), 4) == 4
    assert scaler.num_replicas(61, Demand([load(0)]), 4) == 2
    assert scaler.num_replicas(130, Demand([load(0)]), 2) == 1


def test_engines_that_were_just_started_are_not_ended_before_the_delay() -> None:
    scaler = Autoscaler(SETTINGS)
    assert scaler.num_replicas(0, Demand([load(0)]), 6) == 6
    assert scaler.num_replicas(59, Demand([load(0)]), 6) == 6
    assert scaler.num_replicas(61, Demand([load(0)]), 6) == 1


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1)), max_size=9),
    st.integers(0, 10**6),
    st.integers(1, 8),
)
def test_never_beyond_the_bounds(
    loads: list[tuple[int, int, float]], num_queued: int, num_now: int
) -> None:
    demand = Demand([load(*it) for it in loads], num_queued)
    assert 1 <= Autoscaler(SETTINGS).num_replicas(0, demand, num_now) <= 8
