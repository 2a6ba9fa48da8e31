from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.baselines.drive import Drive, Question
from benchmarks.baselines.summary import Sample, judge, render, sample_of, summarise
from benchmarks.loadtest.record import Record

QUESTIONS = [Question("a", 10), Question("b", 20)]


def record(num_tokens: int, ttft_s: float, e2e_s: float, done: bool = True) -> Record:
    return Record(
        "",
        1.0,
        first_at_s=1.0 + ttft_s,
        ended_at_s=1.0 + e2e_s,
        status=200,
        done=done,
        output_tokens=num_tokens,
    )


def sample(tokens_per_s: float, ttft_p50_ms: float = 50.0, num_unequal: int = 0) -> Sample:
    return Sample(tokens_per_s, ttft_p50_ms, 90.0, 2.0, 3.0, math.nan, 100, 4, 0, num_unequal, 0.1)


def test_tokens_count_over_the_whole_time() -> None:
    drive = Drive([record(10, 0.1, 2.0), record(20, 0.3, 4.0)], wall_s=6.0)
    seen = sample_of(drive, QUESTIONS, router_cpu_s=0.003, others_cores=1.5)
    assert seen.tokens_per_s == 5
    assert round(seen.ttft_p50_ms) == 200
    assert seen.e2e_p50_s == 3.0
    assert round(seen.router_ms_per_1k_tokens) == 100
    assert seen.others_cores == 1.5
    assert (seen.num_failed, seen.num_unequal) == (0, 0)


def test_what_failed_counts_for_nothing_and_other_lengths_are_told() -> None:
    drive = Drive([record(10, 0.1, 2.0, done=False), record(19, 0.3, 4.0)], wall_s=1.0)
    seen = sample_of(drive, QUESTIONS, math.nan, 0.0)
    assert (seen.num_failed, seen.num_unequal, seen.num_tokens) == (1, 1, 19)


def test_nothing_answered_is_no_figure() -> None:
    drive = Drive([Record("", 0.0), Record("", 0.0)], wall_s=1.0)
    seen = sample_of(drive, QUESTIONS, 1.0, 0.0)
    assert (seen.num_failed, seen.tokens_per_s) == (2, 0)
    assert math.isnan(seen.router_ms_per_1k_tokens)


def rounds(**speeds: Sequence[Sample]) -> dict[str, Sequence[Sample]]:
    return {name.replace("_", "-"): samples for name, samples in speeds.items()}


def test_ratios_are_paired_by_round() -> None:
    """A machine that slows down for all changes no ratio."""
    rows = summarise(
        rounds(
            guides=[sample(5), sample(2.5)],
            vllm=[sample(100, 40.0), sample(50, 80.0)],
            r1_serve=[sample(98, 42.0), sample(49, 82.0)],
        )
    )
    ours = rows["r1-serve"]
    assert (round(ours["of_plain"], 3), round(ours["of_guides"], 2)) == (0.98, 19.6)
    assert ours["added_ttft_p50_ms"] == 2.0
    assert judge(rows) == []
    assert "19.6" in render(rows)


def test_claims_that_do_not_hold_are_named() -> None:
    rows = summarise(
        rounds(
            guides=[sample(20)],
            vllm=[sample(100, 40.0)],
            r1_serve=[sample(90, 46.0, num_unequal=1)],
        )
    )
    assert judge(rows) == [
        "1 replies of r1-serve failed or were not as long as asked",
        "4.50 times the guides' tokens/s; 10 is claimed",
        "0.90 of plain vLLM's tokens/s; 0.97 is claimed",
        "6.00 ms over plain vLLM's TTFT p50",
    ]


def test_what_was_not_measured_can_not_be_claimed() -> None:
    ours, plain = rounds(r1_serve=[sample(90)]), rounds(vllm=[sample(90)])
    assert judge(summarise(ours)) == ["vllm was not measured", "guides was not measured"]
    assert judge(summarise(plain))[0] == "r1-serve was not measured"


def test_a_run_that_was_stopped_keeps_what_can_be_compared() -> None:
    rows = summarise(rounds(guides=[sample(5), sample(1)], vllm=[sample(100)], r1_serve=[]))
    assert set(rows) == {"guides", "vllm"}
    assert rows["vllm"]["of_guides"] == 20
    assert summarise(rounds(guides=[])) == {}
