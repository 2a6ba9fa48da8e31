"""A request's record, as a line and at its size."""

from __future__ import annotations

import json

from serve.record import MAX_LEGS, MAX_LINE_BYTES, LegRecord, Record, line_of


def test_a_line_leaves_out_what_has_no_value() -> None:
    """But not zeros, and not `false`."""
    record = Record(route="/v1/completions", outcome="ok", stream=False, reasoning_tokens=0)
    line = line_of(record)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    told = json.loads(line)
    assert told["stream"] is False
    assert told["reasoning_tokens"] == 0
    assert "preset" not in told


def test_a_line_is_one_that_pipes_take_whole() -> None:
    """Legs that would make it longer are counted only."""
    for url, told in (("http://10.0.0.1:8000", True), ("http://" + "x" * 500, False)):
        legs = [LegRecord(kind="failover", replica=url, at_ms=1e6, ms=1e6)] * MAX_LEGS
        line = line_of(Record(request_id="x" * 128, num_legs=99, legs=legs))
        assert len(line) <= MAX_LINE_BYTES
        assert json.loads(line)["num_legs"] == 99
        assert ("legs" in json.loads(line)) is told


def test_of_many_legs_a_line_has_the_first() -> None:
    """The record keeps all of them, for the spans."""
    legs = [LegRecord(kind="first", replica="http://a", at_ms=at, ms=1) for at in range(40)]
    record = Record(num_legs=40, legs=legs)
    told = json.loads(line_of(record))
    assert [leg["at_ms"] for leg in told["legs"]] == list(range(MAX_LEGS))
    assert told["num_legs"] == 40 == len(record.legs or ())


def test_what_there_are_many_of_goes_after_the_legs() -> None:
    """As many generations as a request may have, each with its end."""
    record = Record(request_id="x" * 128, thinking_ended_by=["repetition"] * 500, votes={"n": 64})
    told = json.loads(line := line_of(record))
    assert len(line) <= MAX_LINE_BYTES
    assert told == {"request_id": "x" * 128}
