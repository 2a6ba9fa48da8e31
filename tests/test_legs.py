"""The legs of a reply, as they are noted."""

from __future__ import annotations

import re

import pytest

from serve.errors import UpstreamError
from serve.legs import Legs, Trace


def test_a_second_try_is_a_retry_unless_something_else_is_said() -> None:
    """The kind is that of the next call only; generations of one reply share one list."""
    legs = Legs()
    one, other = legs.of(0), legs.of(1)
    one.begin("http://a")
    other.begin("http://a")
    one.begin("http://b")
    one.kind = "failover"
    one.begin("http://c")
    told = [(leg.kind, leg.choice, leg.replica) for leg in legs.all]
    assert told == [
        ("first", 0, "http://a"),
        ("first", 1, "http://a"),
        ("retry", 0, "http://b"),
        ("failover", 0, "http://c"),
    ]


def test_the_first_end_counts() -> None:
    """A call that is closed later has ended when its stream did, and as that did."""
    leg = Legs().begin("http://a")
    leg.end(UpstreamError("not told"))
    ended_s = leg.ended_s
    leg.end()
    assert (leg.error, leg.ended_s) == ("UpstreamError", ended_s)


@pytest.mark.parametrize("sampled", [True, False])
def test_calls_carry_the_trace(sampled: bool) -> None:
    """`traceparent` names the call itself; `tracestate` goes on as it came."""
    legs = Legs(Trace(0xABC, 0xDEF, sampled, state="a=1"))
    leg = legs.begin("http://a")
    flags = "01" if sampled else "00"
    assert leg.headers == {
        "traceparent": f"00-{0xABC:032x}-{leg.span_id:016x}-{flags}",
        "tracestate": "a=1",
    }
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", leg.headers["traceparent"])
    assert "tracestate" not in Legs(Trace(1, 2, sampled)).begin("http://a").headers
    assert not Legs().begin("http://a").headers
