from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import RateLimitExceeded
from serve.limits import Account, Bucket, Limits
from serve.shared import Counters


def make(**limits: int) -> Account:
    return Account("a", Limits(**limits), Counters.alone(), 0.0)


def refusal(account: Account, now_s: float) -> RateLimitExceeded:
    with pytest.raises(RateLimitExceeded) as refused:
        account.enter(now_s)
    return refused.value


def test_requests_per_minute_are_refilled_evenly() -> None:
    """A minute's worth at once, then one each second; the wait that is told is the right one."""
    account = make(requests_per_minute=60)
    for _ in range(60):
        account.enter(0.0)
    refused = refusal(account, 0.25)
    assert (refused.status, refused.reason) == (429, "key_requests")
    assert "`a` has used its 60 requests per minute" in refused.message
    assert refused.retry_after_s == pytest.approx(0.75)
    account.enter(0.25 + 0.75)
    assert refusal(account, 1.5).headers() == {"retry-after": "1", "retry-after-ms": "500"}


def test_tokens_are_charged_at_the_end_and_may_run_into_debt() -> None:
    """A bucket of 600 charged 900: 31 s until one token is there again."""
    account = make(tokens_per_minute=600)
    account.enter(0.0)
    account.leave()
    account.charge(900)
    refused = refusal(account, 0.0)
    assert refused.reason == "key_tokens"
    assert refused.retry_after_s == pytest.approx(30.1)
    account.enter(30.2)


def test_requests_at_once_are_limited_until_one_ends() -> None:
    account = make(max_in_flight=2)
    account.enter(0.0)
    account.enter(0.0)
    assert refusal(account, 0.0).reason == "key_in_flight"
    account.leave()
    account.enter(0.0)


def test_a_refused_request_takes_nothing() -> None:
    """Neither a place nor a request: after the refill there is room for exactly what was left."""
    account = make(max_in_flight=1, requests_per_minute=2)
    account.enter(0.0)
    for _ in range(9):
        refusal(account, 0.0)
    account.leave()
    account.enter(0.0)
    account.leave()
    assert refusal(account, 0.0).reason == "key_requests"


def test_a_refund_gives_the_request_back() -> None:
    account = make(requests_per_minute=1)
    account.enter(0.0)
    account.leave()
    account.refund()
    account.enter(0.0)


def test_headers_tell_limits_and_what_is_left() -> None:
    """OpenAI's names; only for limits that there are."""
    account = make(requests_per_minute=10, tokens_per_minute=1000)
    account.enter(0.0)
    account.charge(1500)
    assert dict(account.headers(0.0)) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"0",
    }
    assert make(max_in_flight=3).headers(0.0) == []


def test_new_limits_leave_the_other_buckets_as_they_are() -> None:
    account = make(requests_per_minute=1, tokens_per_minute=100)
    account.enter(0.0)
    account.leave()
    account.limit(Limits(requests_per_minute=1, tokens_per_minute=500), 0.0)
    assert refusal(account, 0.0).reason == "key_requests"
    account.limit(Limits(), 0.0)
    account.enter(0.0)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=40))
def test_a_bucket_never_gives_more_than_its_rate_allows(steps: list[tuple[float, int]]) -> None:
    """Over any stretch: at most what it held and what was refilled since, plus the last debt."""
    bucket, now_s, taken = Bucket(60, 0.0, 0), 0.0, 0
    for elapsed_s, amount in steps:
        now_s += elapsed_s
        if bucket.look(now_s, taken) >= 1:
            assert taken <= 60 + now_s
            taken += amount
        else:
            assert bucket.look(now_s + bucket.wait_s() + 1e-6, taken) >= 1
            now_s += bucket.wait_s() + 1e-6


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_workers_that_look_once_a_second_agree_within_a_seconds_refill(taken: list[int]) -> None:
    """One sees every request of a second, the other only their sum at its end."""
    close, coarse, total = Bucket(600, 0.0, 0), Bucket(600, 0.0, 0), 0
    for second, amount in enumerate(taken, start=1):
        for part in range(amount):
            total += 1
            close.look(second - 1 + (part + 1) / (amount + 1), total)
        assert -1e-6 <= coarse.look(second, total) - close.look(second, total) <= 10 + 1e-6
