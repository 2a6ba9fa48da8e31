from __future__ import annotations

from benchmarks.loadtest.record import Record
from benchmarks.open_loop import Arrivals, Visitor, run
from benchmarks.overload import Settings, capacity_of, summarise
from benchmarks.stand_in import Options, StandInEngine
from tests.support import running_router

LOAD = Arrivals("http://127.0.0.1:1", "m", ["1 + 1?"], rate=1, seconds=10)


def attempt(at_s: float, **fields: object) -> Record:
    record = Record("visitor", at_s, sent_at_s=at_s)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def answered(at_s: float, ended_at_s: float, **fields: object) -> Record:
    times = {"first_at_s": at_s + 0.1, "ended_at_s": ended_at_s}
    return attempt(at_s, status=200, done=True, output_tokens=100, **times, **fields)


def refused(at_s: float) -> Record:
    return attempt(at_s, status=429, ended_at_s=at_s + 0.1, retry_after_s=2.0, error="later")


def test_capacity_counts_what_was_answered_in_its_time() -> None:
    """Neither the ramp before it nor the drain after it, nor errors."""
    failed = attempt(0.0, status=500, ended_at_s=8.0)
    attempts = [*(answered(0.0, end_s) for end_s in (2.0, 6.0, 11.9, 12.0)), failed, attempt(9.0)]
    assert capacity_of(attempts, 6.0, 12.0) == 2 / 6


def test_who_is_cut_off_while_waiting_was_neither_let_in_nor_refused() -> None:
    back = [answered(2.0, 3.0), attempt(12.0, status=200), refused(2.0), attempt(12.0)]
    visitors = [Visitor([refused(0.0), then]) for then in back]
    row = summarise("router", 2.0, LOAD, visitors, Settings().slo)
    assert (row.refused, row.let_in, row.let_in_late) == (1.0, 2 / 3, 1.0)
    assert row.goodput_per_s == 1 / 10


def test_right_answers_count_and_who_was_capped_is_told() -> None:
    first, wrong = answered(0.0, 1.0, right=True), answered(1.0, 2.0, right=False)
    wrong.budget_source = "brownout"
    broken = answered(2.0, 3.0)
    broken.done = False
    visitors = [Visitor([it]) for it in (first, wrong, broken)]
    row = summarise("router", 1.0, LOAD, visitors, Settings().slo)
    assert (row.right, row.right_goodput_per_s, row.capped) == (0.5, 0.1, 0.5)


async def test_visitors_come_back_as_told_and_their_answers_are_judged() -> None:
    """By the boxed answer, not by what the trace has."""
    script = r'script:{"think": "\\boxed{4}", "answer": "\\boxed{2}"}'
    limits = {"max_in_flight": 1, "max_queued": 0}
    async with (
        StandInEngine(Options(step_ms=5)) as engine,
        running_router(engine.url, **limits) as router,
    ):
        load = Arrivals(
            router.url,
            "stand-in",
            [script],
            rate=8,
            seconds=1,
            answers=["2"],
            returns=2,
            patience_s=6,
        )
        visitors = await run(load)
    first = [visitor.attempts[0] for visitor in visitors]
    assert any(it.refused for it in first)
    assert all(it.retry_after_s for it in first if it.refused)
    came_back = [visitor for visitor in visitors if len(visitor.attempts) > 1]
    assert came_back
    for visitor in came_back:
        told_s = visitor.attempts[0].retry_after_s
        assert told_s is not None
        assert visitor.attempts[1].due_at_s >= visitor.attempts[0].due_at_s + told_s
    done = [it for visitor in visitors for it in visitor.attempts if it.ok]
    assert done
    assert all(it.right for it in done)
    assert done[0].budget_source == "answer_reserve"
