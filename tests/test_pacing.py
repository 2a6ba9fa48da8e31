from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.pacing import MAX_RETRY_S, MIN_RETRY_S, Appointments, DrainRate


def test_the_refused_are_told_times_one_after_another() -> None:
    """At 2 per second, of which 1.6 are promised: behind the line and behind each other, from 1 s
    up to the cap of 60 s."""
    appointments = Appointments()
    told = [appointments.make(0, who, 0.0, 8, 2.0) for who in range(120)]
    assert told[:3] == [5.625, 6.25, 6.875]
    assert told[-1] == MAX_RETRY_S
    assert appointments.num_open(0) == 87  # no appointments are made at the cap
    assert Appointments().make(0, 0, 0.0, 0, 100.0) == MIN_RETRY_S


def test_batch_work_is_told_times_behind_interactive_work_never_the_other_way() -> None:
    appointments = Appointments()
    for who in range(40):
        appointments.make(10, who, 0.0, 0, 1.0)
    assert appointments.make(0, 40, 0.0, 0, 1.0) == pytest.approx(1.25)
    assert (appointments.num_open(0), appointments.num_open(10)) == (1, 41)
    assert appointments.make(10, 41, 0.0, 0, 1.0) == pytest.approx(52.5)


def test_an_appointment_is_kept_once_in_its_time_by_who_holds_it() -> None:
    appointments = Appointments()
    at_s = appointments.make(0, 7, 0.0, 9, 1.0)
    assert not appointments.keep(0, 7, at_s - 1), "too early"
    assert not appointments.keep(0, 8, at_s), "someone else"
    assert not appointments.keep(10, 7, at_s), "the same request, of another class"
    assert appointments.keep(0, 7, at_s + 0.5)
    assert not appointments.keep(0, 7, at_s + 0.5), "used up"
    at_s = appointments.make(0, 7, 0.0, 9, 1.0)
    assert not appointments.keep(0, 7, at_s + 10), "too late"
    assert appointments.num_open(0) == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([0, 10]),
            st.booleans(),
            st.floats(0, 5),
            st.floats(0.5, 50),
        )
    ),
)
def test_open_appointments_are_counted_right(
    steps: list[tuple[int, int, bool, float, float]],
) -> None:
    """As many as were made and neither kept nor past, and none is left when all are past."""
    appointments, now_s = Appointments(), 0.0
    for who, priority, makes, elapsed_s, rate_per_s in steps:
        now_s += elapsed_s
        if makes:
            appointments.make(priority, who, now_s, 3, rate_per_s)
        else:
            appointments.keep(priority, who, now_s)
        held = sum(map(len, appointments._times.values()))
        assert 0 <= appointments.num_open(0) <= appointments.num_open(10) == held
    appointments.keep(0, 99, now_s + 200)
    assert appointments.num_open(10) == 0
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
