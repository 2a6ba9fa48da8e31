"""The policy alone, in simulated time: no loop, no clock, no sleep."""

from __future__ import annotations

import contextlib
import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import TooManyRequests
from serve.pacing import MAX_RETRY_S
from serve.shared import QUEUED, RUNNING, Counters
from serve.waiting import Policy, Waiter


def make(
    capacity: int = 1, max_queued: int = 10, queue_timeout_s: float = 10.0
) -> tuple[Policy, Counters]:
    counters = Counters.alone()
    policy = Policy(
        counters, lambda: capacity, max_queued=max_queued, queue_timeout_s=queue_timeout_s
    )
    return policy, counters


@dataclass
class Outcome:
    """What a simulated overload came to."""

    served_at: list[float] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)
    """Client → the try that was served."""
    came_back: int = 0
    let_in: int = 0
    """Of those who came back as told, within the appointments' horizon."""
    waits_s: list[float] = field(default_factory=list)
    """Of those, in the line."""


def simulate(
    load: float,
    capacity: int = 100,
    mean_s: float = 1.0,
    end_s: float = 120.0,
    queue_timeout_s: float = 10.0,
) -> Outcome:
    """Poisson arrivals at `load` times what the server can do; the refused come back when told."""
    chance = random.Random(7)
    policy, _ = make(capacity, max_queued=256, queue_timeout_s=queue_timeout_s)
    outcome = Outcome()
    numbers = iter(range(10**9))
    events: list[tuple[float, int, str, int]] = []
    told: dict[int, float] = {}
    tries: dict[int, int] = {}
    waiting: dict[int, tuple[Waiter, float]] = {}

    def schedule(at_s: float, what: str, who: int) -> None:
        heapq.heappush(events, (at_s, next(numbers), what, who))

    def runs(now_s: float, who: int, waited_s: float) -> None:
        outcome.tries[who] = tries[who]
        if told.get(who, MAX_RETRY_S) < MAX_RETRY_S:
            outcome.let_in += 1
            outcome.waits_s.append(waited_s)
        schedule(now_s + chance.expovariate(1 / mean_s), "ends", who)

    def refused(now_s: float, who: int, error: TooManyRequests) -> None:
        assert error.retry_after_s is not None
        told[who] = error.retry_after_s
        schedule(now_s + error.retry_after_s, "arrives", who)

    def settle(now_s: float) -> None:
        for who, (waiter, since_s) in list(waiting.items()):
            if waiter.admitted:
                del waiting[who]
                runs(now_s, who, now_s - since_s)
            elif waiter.refusal is not None:
                del waiting[who]
                refused(now_s, who, waiter.refusal)

    at_s = 0.0
    for who in range(int(load * capacity / mean_s * end_s)):
        at_s += chance.expovariate(load * capacity / mean_s)
        schedule(at_s, "arrives", who)
    for tick in range(int(end_s * 10)):
        schedule(tick / 10, "polls", 0)
    while events and events[0][0] < end_s:
        now_s, _, what, who = heapq.heappop(events)
        if what == "arrives":
            tries[who] = tries.get(who, 0) + 1
            outcome.came_back += told.get(who, MAX_RETRY_S) < MAX_RETRY_S
            try:
                waiter = policy.arrive(0, who, now_s)
            except TooManyRequests as error:
                refused(now_s, who, error)
            else:
                if waiter is None:
                    runs(now_s, who, 0)
                else:
                    waiting[who] = (waiter, now_s)
        elif what == "ends":
            policy.leave(now_s)
            outcome.served_at.append(now_s)
        else:
            policy.expire(now_s)
        if what != "arrives" or waiting:
            settle(now_s)
    outcome.came_back -= sum(told.get(who, MAX_RETRY_S) < MAX_RETRY_S for who in waiting)
    return outcome


@pytest.mark.parametrize("load", [2.0, 3.0])
def test_under_overload_goodput_holds_and_who_comes_as_told_is_let_in(load: float) -> None:
    """100 slots of 1 s: all of capacity, and all who come back as told get in, at the first return
    and after 0.1 s in the line."""
    outcome = simulate(load)
    goodput_per_s = sum(30 <= at_s < 120 for at_s in outcome.served_at) / 90
    assert goodput_per_s >= 0.95 * 100
    assert outcome.came_back > 5000
    assert outcome.let_in >= 0.97 * outcome.came_back
    waits_s = sorted(outcome.waits_s)
    assert waits_s[len(waits_s) // 2] < 1
    returned = [num_tries for num_tries in outcome.tries.values() if num_tries > 1]
    assert sum(num_tries == 2 for num_tries in returned) >= 0.95 * len(returned)


@pytest.mark.parametrize(
    ("capacity", "mean_s", "queue_timeout_s", "kept"),
    [(64, 10.0, 10.0, 0.97), (8, 5.0, 10.0, 0.9), (24, 3.5, 1.0, 0.8)],
)
def test_a_slow_server_of_few_slots_keeps_most_of_its_appointments(
    capacity: int, mean_s: float, queue_timeout_s: float, kept: float
) -> None:
    """Where few ends make the rate uncertain; hardest with a line that must stay short."""
    outcome = simulate(2.5, capacity, mean_s, queue_timeout_s=queue_timeout_s)
    served_in_time = [at_s for at_s in outcome.served_at if at_s >= 30]
    assert len(served_in_time) >= 0.95 * capacity / mean_s * 90
    assert outcome.let_in >= kept * outcome.came_back


def test_without_overload_nobody_is_refused() -> None:
    """At 80 % of capacity every client is served at its first try."""
    outcome = simulate(0.8, end_s=60)
    assert outcome.came_back == 0
    assert set(outcome.tries.values()) == {1}


@given(st.lists(st.tuples(st.sampled_from(["come", "end", "leave", "expire"]), st.integers(-3, 3))))
def test_slots_and_places_are_never_lost_nor_given_twice(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: at most 3 run, nobody waits beside a free slot, the line
    is in order, and at the end everything is zero."""
    policy, counters = make(capacity=3, max_queued=4)
    now_s, num_running = 0.0, 0
    waiting: list[Waiter] = []
    for what, priority in steps:
        now_s += 0.7
        if what == "come":
            try:
                waiter = policy.arrive(priority, 0, now_s)
            except TooManyRequests:
                assert counters.total(QUEUED) >= 3 or policy.line
            else:
                waiting += [waiter] if waiter else []
                num_running += waiter is None
        elif what == "end" and num_running:
            num_running -= 1
            policy.leave(now_s)
        elif what == "leave" and waiting:
            policy.remove(waiting.pop())
        elif what == "expire":
            policy.expire(now_s)
        num_running += sum(waiter.admitted for waiter in waiting)
        waiting = [w for w in waiting if not w.admitted and w.refusal is None]
        assert counters.total(RUNNING) == num_running <= 3
        assert counters.total(QUEUED) == len(policy.line) == len(waiting) <= 8
        assert not waiting or num_running == 3
        assert [w.order for w in policy.line] == sorted(w.order for w in waiting)
    for waiter in waiting:
        policy.remove(waiter)
    for _ in range(num_running):
        policy.leave(now_s)
    assert counters.total(RUNNING) == counters.total(QUEUED) == 0


def test_lower_priorities_run_first_and_equal_ones_as_they_came() -> None:
    policy, _ = make()
    assert policy.arrive(0, 0, 0.0) is None
    waiters = [policy.arrive(priority, 0, 0.0) for priority in (10, 0, 10, -1, 0)]
    order = []
    for _ in waiters:
        policy.leave(1.0)
        order.append(next(i for i, w in enumerate(waiters) if w and w.admitted and i not in order))
    assert order == [3, 1, 4, 0, 2]


def test_who_comes_as_told_goes_before_newcomers_and_behind_more_urgent_work() -> None:
    policy, _ = make(max_queued=1)
    policy.arrive(0, 0, 0.0)
    newcomer = policy.arrive(0, 1, 0.0)
    with pytest.raises(TooManyRequests) as refused:
        policy.arrive(0, 2, 0.0)
    at_s = refused.value.retry_after_s
    assert at_s is not None
    back = policy.arrive(0, 2, at_s)
    assert policy.line == [back, newcomer]
    urgent = policy.arrive(-1, 3, at_s)
    assert policy.line == [urgent, back]
    assert newcomer is not None
    assert newcomer.refusal is not None


def test_batch_work_that_was_told_times_leaves_the_line_to_interactive_work() -> None:
    policy, _ = make(capacity=2, queue_timeout_s=10)
    now_s = 0.0
    for _ in range(2):
        policy.arrive(0, 0, now_s)
    for who in range(100):  # ends 2 times per second, and is always full
        now_s += 0.5
        with contextlib.suppress(TooManyRequests):
            policy.arrive(10, who, now_s)
        policy.leave(now_s)
        policy.arrive(0, 1000 + who, now_s)
    with pytest.raises(TooManyRequests):
        policy.arrive(10, 2000, now_s)
    assert policy.arrive(0, 2001, now_s) is not None


def test_interactive_work_takes_the_place_of_batch_in_a_full_line() -> None:
    """The last batch request is refused in its stead; among equals nobody is pushed out."""
    policy, _ = make(max_queued=2)
    policy.arrive(0, 0, 0.0)
    first, last = policy.arrive(10, 1, 0.0), policy.arrive(10, 2, 0.0)
    interactive = policy.arrive(0, 3, 0.0)
    assert last is not None
    assert last.refusal is not None
    assert last.refusal.reason == "displaced"
    assert policy.line == [interactive, first]
    with pytest.raises(TooManyRequests) as refused:
        policy.arrive(10, 4, 0.0)
    assert refused.value.reason == "queue_full"


def test_who_waits_too_long_is_refused_and_told_when_to_come() -> None:
    policy, counters = make(queue_timeout_s=2)
    policy.arrive(0, 0, 0.0)
    waiter = policy.arrive(0, 1, 0.0)
    policy.expire(1.9)
    assert waiter is not None
    assert waiter.refusal is None
    policy.expire(2.0)
    assert waiter.refusal is not None
    assert waiter.refusal.reason == "queue_timeout"
    assert waiter.refusal.retry_after_s is not None
    assert counters.total(QUEUED) == 0


def test_without_a_line_whoever_finds_no_slot_is_refused() -> None:
    policy, _ = make(max_queued=0)
    policy.arrive(0, 0, 0.0)
    with pytest.raises(TooManyRequests, match=r"send the same request again in \d+ s"):
        policy.arrive(0, 1, 0.0)


def test_pressure_tells_the_slots_then_the_line_before_ones_own_work() -> None:
    """At 1 no slot is free; a line of batch work doesn't press on interactive work."""
    policy, _ = make(capacity=4, max_queued=4)
    seen = []
    for priority in (0, 0, 0, 0, 10, 10, 0):
        policy.arrive(priority, 0, 0.0)
        seen.append((policy.pressure(0, 0.0), policy.pressure(10, 0.0)))
    assert seen[:4] == [(share, share) for share in (0.25, 0.5, 0.75, 1.0)]
    assert seen[4:] == [(1.0, 1.25), (1.0, 1.5), (1.25, 1.75)]


@given(st.lists(st.tuples(st.sampled_from("aaal"), st.integers(0, 2), st.floats(0, 3))))
def test_newcomers_are_refused_at_the_highest_pressure_and_no_earlier(
    steps: list[tuple[str, int, float]],
) -> None:
    """By a full line and by the drain rate, as their priority sees them."""
    policy, counters = make(capacity=3, max_queued=4, queue_timeout_s=6)
    now_s = 0.0
    for who, (what, priority, passed_s) in enumerate(steps):
        now_s += passed_s
        pressure = policy.pressure(priority, now_s)
        assert 0 <= pressure <= 2
        assert (pressure >= 1) == (counters.total(RUNNING) == 3)
        if what == "l" and counters.total(RUNNING):
            policy.leave(now_s)
        elif what == "a":
            try:
                waiter = policy.arrive(priority, who, now_s)
            except TooManyRequests:
                assert pressure == 2
            else:
                assert (waiter is None) == (pressure < 1)


def test_what_other_workers_take_presses_too() -> None:
    """On one that has never seen a full house itself."""
    policy, counters = make(capacity=2)
    counters.add(RUNNING, 2)
    assert policy.pressure(0, 100.0) == 1
