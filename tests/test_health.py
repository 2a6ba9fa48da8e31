"""The state machine of one replica, event by event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.health import (
    FIRST_EJECTION_S,
    FORGIVEN_AFTER_S,
    LONGEST_EJECTION_S,
    MAX_BAD_OUTCOMES,
    Health,
    StallWatch,
    State,
)


def ready_health() -> Health:
    health = Health()
    health.reached()
    return health


def fail(health: Health, now_s: float) -> None:
    """Bad outcomes until the replica is out."""
    for _ in range(MAX_BAD_OUTCOMES):
        if health.ended(health.begin(now_s), False, now_s):
            health.eject(now_s)


def test_it_takes_work_only_after_a_good_probe() -> None:
    health = Health()
    assert health.state(0) is State.UNKNOWN
    assert not health.takes_work(0)
    health.reached()
    assert health.state(0) is State.READY


def test_a_lost_connection_takes_it_out_until_the_next_good_probe() -> None:
    health = ready_health()
    health.lost()
    assert not health.takes_work(0)
    health.reached()
    assert health.takes_work(0)


def test_failures_in_a_row_eject_and_a_success_between_them_counts_anew() -> None:
    health = ready_health()
    for _ in range(MAX_BAD_OUTCOMES - 1):
        assert not health.ended(health.begin(0), False, 0)
    health.ended(health.begin(0), True, 0)
    for _ in range(MAX_BAD_OUTCOMES - 1):
        assert not health.ended(health.begin(0), False, 0)
    assert health.ended(health.begin(0), False, 0)


def test_outcomes_that_tell_nothing_change_nothing() -> None:
    health = ready_health()
    for _ in range(100):
        assert not health.ended(health.begin(0), None, 0)
    assert health.state(0) is State.READY


def test_half_open_lets_one_request_through_at_a_time() -> None:
    """Good: ready. Cut by its client: the next one is the trial. Bad: out for twice as long."""
    health = ready_health()
    fail(health, 0)
    assert health.state(0) is State.EJECTED
    now_s = FIRST_EJECTION_S
    assert health.state(now_s) is State.HALF_OPEN
    epoch = health.begin(now_s)
    assert not health.takes_work(now_s)
    assert not health.ended(epoch, None, now_s)
    epoch = health.begin(now_s)
    assert health.ended(epoch, False, now_s)
    health.eject(now_s)
    assert health.state(now_s + 1.9 * FIRST_EJECTION_S) is State.EJECTED
    now_s += 2 * FIRST_EJECTION_S
    health.ended(health.begin(now_s), True, now_s)
    assert health.state(now_s) is State.READY


def test_a_trial_whose_stream_moves_is_passed() -> None:
    health = ready_health()
    fail(health, 0)
    health.trial_progressed(FIRST_EJECTION_S)
    assert health.state(FIRST_EJECTION_S) is State.HALF_OPEN, "there is no trial yet"
    health.begin(FIRST_EJECTION_S)
    health.trial_progressed(FIRST_EJECTION_S)
    assert health.state(FIRST_EJECTION_S) is State.READY


def test_ejections_grow_to_a_limit_and_are_forgiven() -> None:
    health, now_s, lengths = ready_health(), 0.0, []
    for _ in range(8):
        health.eject(now_s)
        start_s = now_s
        while health.state(now_s) is State.EJECTED:
            now_s += 0.5
        lengths.append(now_s - start_s)
        health.ended(health.begin(now_s), True, now_s)
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (FIRST_EJECTION_S, LONGEST_EJECTION_S)
    now_s += FORGIVEN_AFTER_S
    health.eject(now_s)
    assert health.state(now_s + FIRST_EJECTION_S) is State.HALF_OPEN


def test_what_began_before_the_ejection_says_nothing_after_it() -> None:
    """Streams that break because the replica was ejected don't fail its trial."""
    health = ready_health()
    old = health.begin(0)
    health.eject(0)
    now_s = FIRST_EJECTION_S
    trial = health.begin(now_s)
    assert not health.ended(old, False, now_s)
    assert not health.takes_work(now_s), "the trial still runs"
    health.ended(trial, True, now_s)
    assert health.state(now_s) is State.READY


def test_who_drains_takes_no_work_until_it_is_back() -> None:
    """Whatever its probes say; what they said counts afterwards."""
    health = ready_health()
    for probe, state in ((health.lost, State.UNKNOWN), (health.reached, State.READY)):
        health.drain()
        probe()
        assert health.state(0) is State.DRAINING
        assert not health.takes_work(0)
        health.rejoin()
        assert health.state(0) is state


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["reached", "lost", "begin", "good", "bad", "cut", "eject", "progress"]),
        st.floats(0, 100),
    )
)


@given(EVENTS)
def test_after_any_history_a_good_probe_and_patience_bring_it_back(
    events: list[tuple[str, float]],
) -> None:
    """No sequence of events leaves it out for ever, and half-open never has two trials."""
    health, now_s, running = Health(), 0.0, []
    for event, wait_s in events:
        now_s += wait_s
        if event == "begin" and health.takes_work(now_s):
            running.append(health.begin(now_s))
            if health.state(now_s) is State.HALF_OPEN:
                assert not health.takes_work(now_s)
        elif event in ("good", "bad", "cut") and running:
            good = {"good": True, "bad": False, "cut": None}[event]
            if health.ended(running.pop(), good, now_s):
                health.eject(now_s)
        elif event == "reached":
            health.reached()
        elif event == "lost":
            health.lost()
        elif event == "eject":
            health.eject(now_s)
        elif event == "progress":
            health.trial_progressed(now_s)
    for epoch in running:
        health.ended(epoch, None, now_s)
    health.reached()
    now_s += LONGEST_EJECTION_S
    assert health.takes_work(now_s)
    health.ended(health.begin(now_s), True, now_s)
    assert health.state(now_s) is State.READY


def watch_for(stall: StallWatch, seconds: int, num_in_flight: int, start_s: float = 0) -> bool:
    return any([stall.stalled(start_s + i, num_in_flight) for i in range(seconds + 1)])


def test_silence_with_work_is_a_stall_and_without_work_is_none() -> None:
    assert not watch_for(StallWatch(30), 29, 1)
    assert watch_for(StallWatch(30), 30, 1)
    assert not watch_for(StallWatch(30), 100, 0)


def test_progress_starts_the_clock_again() -> None:
    stall = StallWatch(30)
    assert not watch_for(stall, 29, 1)
    stall.progressed()
    assert not watch_for(stall, 29, 1, 29)


def test_a_router_that_slept_does_not_blame_its_engines() -> None:
    stall = StallWatch(30)
    stall.stalled(0, 1)
    assert not stall.stalled(3600, 1)
    assert not stall.stalled(3601, 1)
