"""The benchmark's arithmetic, its table and its verdict."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.router_bench import Sample, Settings, judge, render, summarise
from benchmarks.soak import growth
from benchmarks.stats import (
    median_of,
    paired_difference,
    paired_ratio,
    percentile,
    table,
    without_nan,
)

SAMPLE = Sample(
    cpu_us_per_token=30.0,
    cpu_us_per_request=200.0,
    rss_mib=50.0,
    ttft_p50_ms=20.0,
    ttft_p99_ms=30.0,
    itl_p50_ms=20.0,
    itl_p99_ms=25.0,
    tokens_per_s=3200.0,
    events_per_token=1.0,
    num_errors=0,
    num_left=0,
    engine_us_per_token=20.0,
    load_us_per_token=10.0,
)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_percentiles_lie_within_the_values(values: list[float]) -> None:
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)
    assert min(values) <= percentile(values, 37) <= max(values)


def test_percentile_interpolates() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert math.isnan(percentile([], 50))


def test_median_ignores_what_could_not_be_measured() -> None:
    assert median_of([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(median_of([math.nan]))


def test_ratio_is_paired_so_that_a_slow_round_cancels_out() -> None:
    assert paired_ratio([30, 60, 33], [20, 40, 22]) == pytest.approx(1.5)
    assert paired_difference([21, 42], [20, 40]) == pytest.approx(1.5)
    assert math.isnan(paired_ratio([1], [0]))


def test_table_aligns_its_columns() -> None:
    assert table([["", "x"], ["name", "10"]]) == "       x\n----  --\nname  10"


def samples(ours: float) -> dict[str, list[Sample]]:
    slow = replace(SAMPLE, cpu_us_per_token=60.0)
    return {
        "direct": [replace(SAMPLE, cpu_us_per_token=0.0, ttft_p50_ms=15.0)] * 2,
        "r1-serve": [
            replace(SAMPLE, cpu_us_per_token=ours * at.cpu_us_per_token) for at in (SAMPLE, slow)
        ],
        "vllm-router": [SAMPLE, slow],
    }


def test_summary_compares_within_rounds() -> None:
    summary = summarise(samples(1.5))
    assert summary["r1-serve"]["token_ratio"] == pytest.approx(1.5)
    assert summary["r1-serve"]["request_ratio"] == 1
    assert summary["r1-serve"]["added_ttft_p50_ms"] == pytest.approx(5.0)
    assert "added_ttft_p50_ms" not in summary["direct"]
    splits = {"direct": False, "r1-serve": True, "vllm-router": False}
    assert "1.50" in render(summary, splits).splitlines()[3]


def test_report_is_json_where_nothing_was_measured() -> None:
    report = {"rounds": {"a": [{"x": math.nan}]}, "load": (1.0, 2.0)}
    assert without_nan(report) == {"rounds": {"a": [{"x": None}]}, "load": [1.0, 2.0]}


def test_verdict_names_what_is_wrong() -> None:
    """Every limit on its own, and that there was something to compare."""
    settings = Settings()
    assert judge(summarise(samples(1.7)), settings) == []
    (verdict,) = judge(summarise(samples(1.9)), settings)
    assert verdict == "1.90 times the CPU per token; the limit is 1.80"
    (verdict,) = judge(summarise({"r1-serve": samples(1.0)["r1-serve"]}), settings)
    assert "must all have run" in verdict
    for field, value in {
        "num_errors": 2,
        "cpu_us_per_request": 650.0,
        "ttft_p50_ms": 27.0,
        "ttft_p99_ms": 43.0,
        "itl_p99_ms": 36.0,
    }.items():
        failing = samples(1.0)
        failing["r1-serve"] = [
            replace(sample, **{field: value}) for sample in failing["vllm-router"]
        ]
        assert len(judge(summarise(failing), settings)) == 1, field


def test_growth_is_that_of_the_second_half() -> None:
    """What is allocated once, early, is not a leak."""
    assert growth([(100, 50.0), (200, 60.0), (300, 60.0), (400, 60.0)]) == 0
    assert growth([(100, 50.0), (200, 60.0), (300, 62.0), (400, 64.0)]) == pytest.approx(4)
    assert growth([(100, 50.0)]) == 0
