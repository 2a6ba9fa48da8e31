"""The referee: AIPerf's export read by our definitions, and what the two don't agree on.

`data/aiperf_raw.jsonl` is what AIPerf 0.13 exported of five requests to the router over a stand-in
engine (one for warm-up, three answered, one refused by a broken engine), without headers and
bodies; `data/aiperf_summary.json` is what it made of them itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.loadtest.figures import figures_of
from benchmarks.loadtest.workload import Conversations, load_workload
from benchmarks.referee import (
    SLO,
    THEIRS,
    Settings,
    bodies,
    difference_percent,
    differences,
    missing,
    read_lines,
    read_theirs,
    rounds_table,
    seen_of,
    side_by_side,
    verdict,
)

DATA = Path(__file__).parent / "data"


@pytest.fixture
def ours() -> dict[str, float]:
    return figures_of(seen_of(read_lines(DATA / "aiperf_raw.jsonl")), SLO)


@pytest.fixture
def theirs() -> dict[str, float]:
    return read_theirs(DATA / "aiperf_summary.json")


def test_an_export_becomes_records_without_the_warm_up() -> None:
    """Times are since the first request was sent; a request that failed has none."""
    seen = seen_of(read_lines(DATA / "aiperf_raw.jsonl"))
    first, second, failed, third = seen.records
    assert (first.sent_at_s, first.done, first.finish_reason) == (0.0, True, "stop")
    assert (first.prompt_tokens, first.output_tokens, first.reasoning_tokens) == (37, 9, 5)
    assert first.num_events == 10
    assert first.ttft_s == pytest.approx(0.014987, abs=1e-6)
    assert first.ttfa_s == pytest.approx(0.135200, abs=1e-6)
    assert first.ended_at_s == pytest.approx(0.174754, abs=1e-6)
    assert second.ok
    assert third.ok
    assert (failed.ok, failed.status, failed.ended_at_s) == (False, 502, None)
    assert "stand-in fault" in failed.error
    assert seen.begin_s == 0.0
    assert third.ended_at_s is not None
    assert third.ended_at_s < seen.end_s < third.ended_at_s + 1e-9


def test_the_gaps_are_those_of_each_stream_from_its_first_text_on() -> None:
    """All chunks but the role's and the first, so two less than events of each reply."""
    seen = seen_of(read_lines(DATA / "aiperf_raw.jsonl"))
    assert len(seen.gaps_s) == sum(record.num_events - 2 for record in seen.records if record.ok)
    assert min(seen.gaps_s) == 0.0


def test_the_two_agree_on_what_both_define_alike(
    ours: dict[str, float], theirs: dict[str, float]
) -> None:
    found = differences(ours, theirs)
    alike = [name for name in THEIRS if name.startswith(("ttft", "ttfa", "prompt", "reasoning"))]
    assert len(alike) == 8
    for name in (*alike, "itl_p50_ms"):
        assert found[name] == pytest.approx(0, abs=1e-4), name
    assert missing(ours, theirs) == []


def test_the_last_step_is_part_of_our_times_and_not_of_theirs(
    ours: dict[str, float], theirs: dict[str, float]
) -> None:
    """An end token has no text: a step of 20 ms of these short replies."""
    assert ours["e2e_p50_ms"] - theirs["e2e_p50_ms"] == pytest.approx(20, abs=4)


def test_a_difference_beyond_the_tolerance_is_named() -> None:
    ours, theirs = {"ttft_p50_ms": 10.2, "e2e_p50_ms": 104.0}, dict.fromkeys(THEIRS, 100.0)
    theirs["ttft_p50_ms"] = 10.0
    assert list(verdict(ours, theirs, 3)) == ["e2e_p50_ms differs by +4.0 %"]
    assert list(verdict(ours, theirs, 1)) != list(verdict(ours, theirs, 3))
    assert list(verdict(ours, theirs, 5)) == []


def test_a_difference_from_nothing_is_infinite_unless_there_is_nothing_on_both_sides() -> None:
    assert difference_percent(0.0, 0.0) == 0.0
    assert difference_percent(1.0, 0.0) == math.inf
    assert difference_percent(99.0, 100.0) == pytest.approx(-1)


def test_what_only_one_has_is_told_apart() -> None:
    assert missing({"goodput_per_s": 1.0}, {"itl_p50_ms": 1.0}) == ["itl_p50_ms", "goodput_per_s"]
    assert differences({"goodput_per_s": 1.0}, {"itl_p50_ms": 1.0}) == {}


def test_the_table_has_both_and_their_difference() -> None:
    lines = side_by_side({"ttft_p50_ms": 1030.0}, {"ttft_p50_ms": 1000.0}).splitlines()
    assert lines[-1].split() == ["ttft_p50_ms", "1,030.00", "1,000.00", "+3.00", "%"]


def test_rounds_give_medians_and_the_range_of_what_differed_within_a_round() -> None:
    """A figure that a round lacks is left out."""
    pairs = [(100.0, 100.0), (110.0, 100.0), (190.0, 200.0)]
    rounds = [({"e2e_p50_ms": ours}, {"e2e_p50_ms": theirs}) for ours, theirs in pairs]
    rounds[0][0]["itl_p50_ms"] = 1.0
    lines = rounds_table(rounds).splitlines()
    assert len(lines) == 3
    cells = "e2e_p50_ms 110.00 100.00 +0.0 % -5.0 % +10.0 %"
    assert lines[-1].split() == cells.split()


def test_both_load_generators_ask_the_same() -> None:
    """AIPerf gets our driver's questions in their order, with their fields."""
    asked = list(bodies(Settings(workload="demo", requests=5)))
    conversations = Conversations(load_workload("demo"))
    for body in asked:
        turn = conversations.next().turns[0]
        assert body["messages"] == [{"role": "user", "content": turn.task.prompt}]
        assert body["seed"] == turn.fields["seed"]
        assert body["stream_options"] == {"include_usage": True}
