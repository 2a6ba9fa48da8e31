from __future__ import annotations

import json

from benchmarks.open_loop import Arrivals, Attempt, Visitor
from benchmarks.overload import Settings, capacity_of, summarise


def answered(at_s: float, ended_at_s: float) -> Attempt:
    return Attempt(at_s, status=200, ttft_s=0.1, ended_at_s=ended_at_s, num_tokens=100, done=True)


def test_capacity_counts_what_was_answered_in_its_time() -> None:
    """Neither the ramp before it nor the drain after it, nor errors."""
    failed = Attempt(0.0, status=500, ended_at_s=8.0)
    attempts = [*(answered(0.0, end_s) for end_s in (2.0, 6.0, 11.9, 12.0)), failed, Attempt(9.0)]
    assert capacity_of(attempts, 6.0, 12.0) == 2 / 6


def test_who_is_cut_off_while_waiting_was_neither_let_in_nor_refused() -> None:
    refused = [Attempt(0.0, status=429, ended_at_s=0.1, retry_after_s=2.0) for _ in range(4)]
    back = [
        answered(2.0, 3.0),
        Attempt(12.0, status=200, ttft_s=0.1),
        Attempt(2.0, status=429, ended_at_s=2.1),
        Attempt(12.0),
    ]
    visitors = [Visitor([first, then]) for first, then in zip(refused, back, strict=True)]
    load = Arrivals("http://127.0.0.1:1", "m", ["1 + 1?"], rate=1, seconds=10)
    row = summarise("router", 2.0, load, visitors, Settings())
    assert (row.refused, row.let_in, row.let_in_late) == (1.0, 2 / 3, 1.0)
    assert row.goodput_per_s == 1 / 10


def test_answers_are_judged_by_what_their_streams_say() -> None:
    """The trace doesn't count, nor does a reply that broke off; who was capped is told."""
    first, wrong, broken = (answered(at_s, at_s + 1) for at_s in (0.0, 1.0, 2.0))
    broken.done = False
    for attempt, parts in (
        (first, [{"reasoning": "\\boxed{1}"}, {"content": "\\boxed{"}, {"content": "2}"}]),
        (wrong, [{"reasoning": "\\boxed{4}"}, {"content": "\\boxed{5}"}]),
        (broken, [{"content": "\\boxed{6}"}]),
    ):
        for delta in parts:
            attempt.body += b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode()
    wrong.capped = True
    load = Arrivals("http://127.0.0.1:1", "m", ["a", "b", "c"], rate=1, seconds=10)
    visitors = [Visitor([attempt]) for attempt in (first, wrong, broken)]
    row = summarise("router", 1.0, load, visitors, Settings(), ["2", "4", "6"])
    assert (row.right, row.right_goodput_per_s, row.capped) == (0.5, 0.1, 0.5)
