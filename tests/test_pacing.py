from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.pacing import MAX_RETRY_S, MIN_RETRY_S, Appointments, DrainRate


def test_the_refused_are_told_times_one_after_another() -> None:
    """At 2 per second: behind the line and behind each other, from 1 s up to the cap of 60 s."""
    appointments = Appointments()
    told = [appointments.make(who, 0.0, 10, 2.0) for who in range(120)]
    assert told[:3] == [5.5, 6.0, 6.5]
    assert told[-1] == MAX_RETRY_S
    assert appointments.num_open == 109  # no appointments are made at the cap
    assert Appointments().make(0, 0.0, 0, 100.0) == MIN_RETRY_S


def test_an_appointment_is_kept_once_in_its_time_by_who_holds_it() -> None:
    appointments = Appointments()
    at_s = appointments.make(7, 0.0, 9, 1.0)
    assert not appointments.keep(7, at_s - 1), "too early"
    assert not appointments.keep(8, at_s), "someone else"
    assert appointments.keep(7, at_s + 0.5)
    assert not appointments.keep(7, at_s + 0.5), "used up"
    at_s = appointments.make(7, 0.0, 9, 1.0)
    assert not appointments.keep(7, at_s + 10), "too late"
    assert appointments.num_open == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 5), st.floats(0.5, 50))),
)
def test_open_appointments_are_counted_right(steps: list[tuple[int, bool, float, float]]) -> None:
    """Never negative, and none is left when all are past."""
    appointments, now_s = Appointments(), 0.0
    for who, makes, elapsed_s, rate_per_s in steps:
        now_s += elapsed_s
        if makes:
            appointments.make(who, now_s, 3, rate_per_s)
        else:
            appointments.keep(who, now_s)
        assert 0 <= appointments.num_open <= 60 * 50
    appointments.keep(99, now_s + 200)
    assert appointments.num_open == 0
    assert not appointments._times


def test_the_drain_rate_is_that_of_saturated_time() -> None:
    """Half of the time idle: only the busy half counts. A silence lowers it."""
    rate = DrainRate()
    for second in range(0, 100, 2):
        rate.saturated(second, 10)
        for tick in range(5):
            rate.ended(second + (tick + 1) / 5)
        rate.relaxed(second + 1)
    rate.saturated(100, 10)
    assert rate.per_s(100) == pytest.approx(5, rel=0.05)
    assert rate.per_s(110) == pytest.approx(5 / 2.718, rel=0.1)
