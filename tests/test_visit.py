"""A request's id, and the time of its record."""

from __future__ import annotations

import re

import pytest

from serve.visit import Visit, sent_request_id, timestamp


@pytest.mark.parametrize("value", ["a", "0b6e-4F.x_y:1/2+3=@", "x" * 128])
def test_a_sane_id_is_the_clients(value: str) -> None:
    visit = Visit(headers=[(b"accept", b"*/*"), (b"x-request-id", value.encode())])
    assert visit.identify("chatcmpl-1") == value
    assert visit.record(None).request_id == value


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\rb", b'"', b"\xff", b"a,b", b"%0d"])
def test_another_id_is_not_taken(value: bytes) -> None:
    assert sent_request_id([(b"x-request-id", value)]) == ""


def test_without_one_the_id_is_the_replys() -> None:
    """Or one of its own, where there is no reply; it stays the same."""
    assert Visit().identify("chatcmpl-1") == "chatcmpl-1"
    visit = Visit()
    own = visit.identify()
    assert re.fullmatch("req_[0-9a-f]{32}", own)
    assert visit.identify("chatcmpl-1") == own == visit.record(None).request_id


def test_times_are_rfc_3339_in_utc() -> None:
    assert timestamp(1_795_000_000_123_999_999) == "2026-11-18T11:06:40.123Z"
    assert timestamp(1_795_000_000_000_000_000) == "2026-11-18T11:06:40.000Z"
