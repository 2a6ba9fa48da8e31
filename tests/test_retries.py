"""The retry budget: a bucket, and time that is passed in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.retries import RESERVE, RetryBudget


def num_granted(budget: RetryBudget, asked: int, now_s: float) -> int:
    return sum(budget.take(now_s) for _ in range(asked))


def test_every_stream_of_one_dead_replica_may_move_once() -> None:
    assert num_granted(RetryBudget(), 1000, 0) == RESERVE


def test_requests_earn_a_fifth_of_a_retry_each() -> None:
    budget = RetryBudget()
    num_granted(budget, RESERVE, 0)
    for _ in range(100):
        budget.request()
    assert num_granted(budget, 1000, 0) in (19, 20)


def test_the_reserve_comes_back_with_time_and_no_more_than_it() -> None:
    budget = RetryBudget(reserve=60, refill_s=60)
    num_granted(budget, 60, 0)
    assert num_granted(budget, 100, 30) == 30
    assert num_granted(budget, 1000, 10_000) == 60


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=300))
def test_retries_never_outrun_the_budget(steps: list[tuple[bool, float]]) -> None:
    """Whatever the order: at most the reserve, its refill and the share of the requests."""
    budget, now_s, requests, granted = RetryBudget(0.2, 10, 60), 0.0, 0, 0
    for is_request, wait_s in steps:
        now_s += wait_s
        if is_request:
            requests += 1
            budget.request()
        else:
            granted += budget.take(now_s)
    assert granted <= 10 + 10 / 60 * now_s + 0.2 * requests + 1e-6
