from __future__ import annotations

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
