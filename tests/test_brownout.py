"""Brownout: the level, the cap, and the loop that they close, in simulated time. Over HTTP:
tests/test_router_brownout.py."""

from __future__ import annotations

import heapq
import math
import random
import statistics
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.brownout import (
    HYSTERESIS,
    RISE_S,
    Brownout,
    Level,
    shrunk,
)
from serve.budget import Budget
from serve.errors import TooManyRequests
from serve.lengths import MIN_LENGTHS
from serve.plan import plan_chat
from serve.presets import Preset, PresetBook
from serve.protocol import parse_chat
from serve.settings import BrownoutSettings
from serve.shared import Counters
from serve.waiting import Policy, Waiter

START, FULL, RECOVERY_S = 0.8, 1.2, 20.0
PRESSURES = st.floats(0, 2)
HISTORIES = st.lists(st.tuples(st.floats(0, 30), PRESSURES), min_size=1, max_size=30)


def level() -> Level:
    return Level(START, FULL, RECOVERY_S)


def wanted(pressure: float) -> float:
    return min(1.0, max(0.0, (pressure - START) / (FULL - START)))


# --- the level


@given(HISTORIES)
def test_a_level_stays_between_none_and_all(history: list[tuple[float, float]]) -> None:
    """Whatever the pressure was, and where time stands still or a clock goes back too."""
    it, now_s = level(), 0.0
    for passed_s, pressure in history:
        now_s += passed_s
        assert 0 <= it.observe(pressure, now_s) <= 1
    assert 0 <= it.observe(2.0, now_s - 5) <= 1


@given(HISTORIES, st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_more_pressure_never_means_a_lower_level(
    history: list[tuple[float, float]], more: list[float]
) -> None:
    calm, pressed, now_s = level(), level(), 0.0
    for (passed_s, pressure), extra in zip(history, more, strict=False):
        now_s += passed_s
        low = calm.observe(pressure, now_s)
        assert pressed.observe(pressure + extra, now_s) >= low


@given(HISTORIES, PRESSURES)
def test_the_present_pressure_bounds_the_level(
    history: list[tuple[float, float]], pressure: float
) -> None:
    """However it came there: after a while of one pressure the past makes a difference no larger
    than the hysteresis."""
    it, now_s = level(), 0.0
    for passed_s, earlier in history:
        now_s += passed_s
        it.observe(earlier, now_s)
    settled = it.observe(pressure, now_s + RISE_S + RECOVERY_S)
    assert wanted(pressure) <= settled <= wanted(pressure + HYSTERESIS)
    assert it.observe(pressure, now_s + 1000) == settled


def test_a_level_rises_at_once_and_falls_slowly_once_the_pressure_is_well_below() -> None:
    it = level()
    it.observe(FULL, 0.0)
    assert it.observe(FULL, RISE_S) == 1
    assert it.observe(FULL - HYSTERESIS, 100.0) == 1, "within the hysteresis"
    halfway = it.observe(0.0, 100.0 + RECOVERY_S / 2)
    assert halfway == pytest.approx(0.5)
    assert it.observe(0.0, 100.0 + RECOVERY_S) == 0, "gone, not nearly gone"


# --- the cap


@given(
    st.integers(1, 40_000),
    st.none() | st.integers(0, 40_000),
    st.integers(1, 2000),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_cap_goes_from_the_usual_to_the_minimum(
    budget: int, usual: int | None, floor: int, levels: tuple[float, float]
) -> None:
    """Never more than the request would get, never less than the minimum unless it gets less
    anyway, and never more at a higher level."""
    low, high = sorted(levels)
    gentle, hard = (shrunk(budget, usual, floor, level) for level in (low, high))
    assert min(budget, floor) <= hard <= gentle <= budget
    assert shrunk(budget, usual, floor, 0) == budget
    assert shrunk(budget, usual, floor, 1) == min(budget, floor)


def test_equal_steps_of_the_level_are_equal_factors() -> None:
    """From 1600, what is usual, to 100: the budget of 8192 itself would relieve nothing."""
    caps = [shrunk(8192, 1600, 100, level) for level in (0.25, 0.5, 0.75)]
    assert caps == [800, 400, 200]


# --- the classes


def brownout(pressure: float, **settings: Any) -> Brownout:
    """Long enough under this pressure."""
    clock = iter([0.0, 0.0, *[1000.0] * 1000])
    settings = {"enabled": True, "min_thinking_tokens": 100} | settings
    made = Brownout(BrownoutSettings(**settings), lambda _: pressure, lambda: next(clock))
    made.levels()
    return made


def test_batch_work_thinks_less_before_interactive_work_does() -> None:
    """At the defaults batch begins at 0.8 and interactive where no slot is free."""
    levels = [brownout(pressure / 100).levels() for pressure in range(0, 201, 5)]
    assert all(it["batch"] >= it["interactive"] for it in levels)
    assert all(a["batch"] <= b["batch"] for a, b in pairwise(levels))
    assert all(a["interactive"] <= b["interactive"] for a, b in pairwise(levels))
    assert brownout(0.8).levels() == {"interactive": 0, "batch": 0}
    assert brownout(1.0).levels() == {"interactive": 0, "batch": pytest.approx(0.5)}
    assert brownout(1.2).levels() == {"interactive": 1, "batch": 1}
    now = brownout(1.0)
    assert [now.level(priority) > 0 for priority in (-5, 0, 9, 10, 99)] == [0, 0, 0, 1, 1]


def test_each_class_sees_those_who_stand_before_it() -> None:
    """A line of batch work doesn't shorten the thinking of the people who overtake it."""
    clock = iter([0.0, 0.0, *[9.0] * 9])
    made = Brownout(
        BrownoutSettings(enabled=True),
        lambda priority: 2.0 if priority >= 10 else 0.5,
        lambda: next(clock),
    )
    made.levels()
    assert made.levels() == {"interactive": 0, "batch": 1}


def test_nothing_happens_unless_it_is_switched_on() -> None:
    off = brownout(2.0, enabled=False)
    assert off.levels() == {"interactive": 0, "batch": 0}
    assert off.cap("chat", 10) is None
    assert brownout(0.5).cap("chat", 10) is None


def test_caps_follow_the_lengths_of_the_preset() -> None:
    made = brownout(1.0)
    for _ in range(MIN_LENGTHS):
        made.thought("chat", 400)
    cap, unknown = made.cap("chat", 10), made.cap("math", 10)
    assert cap is not None
    assert unknown is not None
    assert [cap(8192), cap(150), cap(50)] == [200, round(math.sqrt(150 * 100)), 50]
    assert unknown(6400) == 800, "from the budget itself, where nothing is known"


# --- the budget


BOOK = PresetBook(
    presets={"plain": Preset(description="", source="", thinking_token_budget=300)},
    reasoning_effort={"low": 200},
)


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, Budget(120, "brownout")),
        ({"thinking_token_budget": 250}, Budget(120, "brownout")),
        ({"reasoning_effort": "low"}, Budget(120, "brownout")),
        ({"thinking_token_budget": 120}, Budget(120, "request")),
        ({"thinking_token_budget": 80}, Budget(80, "request")),
        ({"max_tokens": 150}, Budget(75, "answer_reserve")),
        ({"ignore_eos": True}, Budget(300, "preset")),
        ({"recover": False}, Budget(300, "preset")),
        ({"recover": False, "thinking_token_budget": 250}, Budget(250, "request")),
    ],
)
def test_a_cap_wins_where_it_is_lower_and_leaves_an_answer(
    fields: dict[str, Any], budget: Budget
) -> None:
    """A client's own budget too; not where the trace couldn't be continued to an answer."""
    data = {"messages": [{"role": "user", "content": "hi"}], **fields}
    plan = plan_chat(
        parse_chat(data),
        data,
        model="m",
        max_model_len=4096,
        preset_name="plain",
        book=BOOK,
        merge_system=True,
        cap=lambda wanted: min(wanted, 120),
    )
    assert plan.budget == budget


def test_a_request_without_a_budget_is_capped_too() -> None:
    assert Budget().capped(lambda wanted: min(wanted, 50), 100) == Budget(50, "brownout")
    assert Budget().capped(lambda wanted: min(wanted, 100), 100) == Budget()


# --- the loop

NUM_SLOTS, MEAN_TOKENS, SECONDS_EACH = 50, 1000, 4.0


@dataclass
class Outcome:
    """What a simulated server did from `measured_from_s` on."""

    num_served: int = 0
    num_refused: int = 0
    levels: list[tuple[float, float]] = field(default_factory=list)

    @property
    def refused(self) -> float:
        return self.num_refused / (self.num_served + self.num_refused)

    def levels_between(self, from_s: float, to_s: float) -> list[float]:
        return [level for at_s, level in self.levels if from_s <= at_s < to_s]


def simulate(
    loads: list[tuple[float, float]],
    *,
    enabled: bool = True,
    measured_from_s: float = 60.0,
    seed: int = 5,
) -> Outcome:
    """The gate's own policy and a brownout around generations that last as long as they think;
    `loads` are (multiple of what the slots can do, seconds). The refused don't come back."""
    chance, outcome, now_s = random.Random(seed), Outcome(), 0.0
    policy = Policy(Counters.alone(), lambda: NUM_SLOTS, max_queued=256, queue_timeout_s=10.0)
    made = Brownout(
        BrownoutSettings(
            enabled=enabled, min_thinking_tokens=MEAN_TOKENS // 10, recovery_s=6 * SECONDS_EACH
        ),
        lambda priority: policy.pressure(priority, now_s),
        lambda: now_s,
    )
    numbers = iter(range(10**9))
    events: list[tuple[float, int, str, int, bool]] = []
    waiting: list[tuple[Waiter, int, bool]] = []

    def schedule(at_s: float, what: str, tokens: int = 0, capped: bool = False) -> None:
        heapq.heappush(events, (at_s, next(numbers), what, tokens, capped))

    def count(served: bool) -> None:
        if now_s >= measured_from_s:
            outcome.num_served += served
            outcome.num_refused += not served

    def runs(tokens: int, capped: bool) -> None:
        count(True)
        schedule(now_s + SECONDS_EACH * tokens / MEAN_TOKENS, "ends", tokens, capped)

    def arrives() -> None:
        tokens = round(MEAN_TOKENS * math.exp(chance.gauss(-0.32, 0.8)))  # of a mean of 1
        cap = made.cap("chat", 0)
        if cap is not None:
            tokens = min(tokens, cap(8192))
        try:
            waiter = policy.arrive(0, next(numbers), now_s)
        except TooManyRequests:
            count(False)
            return
        if waiter is None:
            runs(tokens, cap is not None)
        else:
            waiting.append((waiter, tokens, cap is not None))

    at_s = 0.0
    for load, seconds in loads:
        end_s = at_s + seconds
        while at_s < end_s:
            at_s += chance.expovariate(load * NUM_SLOTS / SECONDS_EACH)
            schedule(at_s, "arrives")
    for tick in range(int(at_s * 5)):
        schedule(tick / 5, "looks")
    while events:
        now_s, _, what, tokens, capped = heapq.heappop(events)
        if what == "arrives":
            arrives()
        elif what == "ends":
            if not capped:
                made.thought("chat", tokens)
            policy.leave(now_s)
        else:
            policy.expire(now_s)
            outcome.levels.append((now_s, made.level()))
        for one in [one for one in waiting if one[0].admitted or one[0].refusal]:
            waiting.remove(one)
            if one[0].admitted:
                runs(*one[1:])
            else:
                count(False)
    return outcome


@pytest.mark.parametrize("load", [1.5, 2.5])
def test_under_a_constant_load_the_level_settles_and_hardly_anyone_is_refused(load: float) -> None:
    """It hovers about one value and hardly touches none or all; without a brownout a third and more
    are refused."""
    loads = [(load, 360.0)]
    outcome = simulate(loads)
    levels = outcome.levels_between(60, 360)
    assert outcome.refused < 0.01
    assert simulate(loads, enabled=False).refused > 0.9 * (1 - 1 / load)
    assert 0.3 < statistics.mean(levels) < 0.9
    assert statistics.pstdev(levels) < 0.3
    assert sum(level in (0, 1) for level in levels) < 0.1 * len(levels)
    early, late = (outcome.levels_between(at_s, at_s + 150) for at_s in (60, 210))
    assert abs(statistics.mean(early) - statistics.mean(late)) < 0.1, "no drift"


def test_with_room_to_spare_nobody_thinks_less() -> None:
    outcome = simulate([(0.6, 200.0)])
    assert max(outcome.levels_between(0, 200)) == 0


def test_budgets_are_back_after_an_overload_and_it_leaves_nothing_behind() -> None:
    """Twice the load, then little: the level is gone within the recovery and a few generations,
    and the next overload finds the same server."""
    cycle = [(2.0, 100.0), (0.5, 100.0)]
    outcome = simulate(cycle * 2, measured_from_s=0)
    recovered_s = 100 + 6 * SECONDS_EACH + 5 * SECONDS_EACH
    assert max(outcome.levels_between(recovered_s, 200)) == 0
    first, second = (statistics.mean(outcome.levels_between(at, at + 100)) for at in (0, 200))
    assert abs(first - second) < 0.15
