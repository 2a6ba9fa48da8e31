"""Tests of calibration: from what clients see, back to the step times that made it."""

from __future__ import annotations

import pytest

pytest.importorskip("numpy")

from benchmarks.planner import replay
from benchmarks.planner.calibrate import LEVELS, SIZES, counts_of, fit
from benchmarks.planner.calibration import Calibration, read_calibration, write_calibration
from benchmarks.planner.engine_sim import Limits, StepTimes
from benchmarks.planner.samples import Sample, Size, figures
from benchmarks.planner.simulate import EngineModel
from benchmarks.planner.validate import Row, Settings, arrivals, render, sizes_of, staggered

LIMITS = Limits(64, 4096, 200_000, chunked_prefill=False)
TRUE = EngineModel(
    StepTimes(
        by_running=((1, 0.0018), (16, 0.0058), (64, 0.0125)),
        kv_token_s=8e-8,
        prefill_token_s=2e-5,
        request_s=0.001,
    ),
    LIMITS,
    outside_s=0.005,
)


@pytest.fixture(scope="module")
def found() -> Calibration:
    windows = [
        counts_of(replay.closed(TRUE, staggered(size, level), level, 6.5), level, 2.5, 6.5)
        for size in SIZES
        for level in LEVELS
    ]
    return fit(windows, LIMITS, "a simulated engine")


def test_step_times_are_found_again(found: Calibration):
    for level in LEVELS:
        seen = found.step_times.step_s(level, 200 * level, 100, 1)
        assert seen == pytest.approx(TRUE.step_times.step_s(level, 200 * level, 100, 1), rel=0.05)
    assert found.outside_s == pytest.approx(0.005, rel=0.2)


def test_other_loads_are_predicted_from_them(found: Calibration):
    sizes, seconds = sizes_of(Settings()), 20.0
    for num_clients in (2, 24, 48):
        loads = [replay.closed(m, sizes, num_clients, seconds) for m in (found.model, TRUE)]
        seen, true = (figures(samples, 2.5, seconds) for samples in loads)
        assert seen.tokens_per_s == pytest.approx(true.tokens_per_s, rel=0.05)
        assert seen.e2e_p50_s == pytest.approx(true.e2e_p50_s, rel=0.05)
    times_s = arrivals(20.0, seconds, seed=3)
    loads = [replay.open_loop(m, sizes, times_s) for m in (found.model, TRUE)]
    seen, true = (figures(samples, 2.5, seconds) for samples in loads)
    assert seen.e2e_p50_s == pytest.approx(true.e2e_p50_s, rel=0.1)


def test_a_calibration_survives_its_file(found: Calibration, tmp_path):
    path = tmp_path / "results" / "step-times.json"
    write_calibration(path, found)
    assert read_calibration(path) == found


# ---- replay, figures ----


def test_a_closed_loop_sends_the_next_request_when_the_last_has_ended():
    model = EngineModel(StepTimes(((1, 1.0),)), Limits(4, 64, 4096), outside_s=0.5)
    samples = replay.closed(model, [Size(10, 3), Size(10, 2)], 1, 5.0)
    assert [(s.sent_s, s.first_s, s.ended_s) for s in samples] == [
        (0.0, 1.5, 3.5),
        (3.5, 5.0, 6.0),
    ]


def test_an_open_loop_sends_when_it_is_time():
    model = EngineModel(StepTimes(((1, 1.0),)), Limits(4, 64, 4096))
    samples = replay.open_loop(model, [Size(10, 3), Size(10, 1)], [0.0, 0.4, 9.0])
    assert [(s.sent_s, s.first_s, s.ended_s) for s in samples] == [
        (0.4, 2.0, 2.0),
        (0.0, 1.0, 3.0),
        (9.0, 10.0, 12.0),
    ]


def test_tokens_count_where_they_came_and_latencies_where_they_began():
    samples = [Sample(Size(1, 10), 0.0, 1.0, 3.0), Sample(Size(1, 10), 2.5, 3.0, 5.0)]
    seen = figures(samples, 2.0, 4.0)
    assert seen.tokens_per_s == pytest.approx((5 + 5) / 2)
    assert seen.requests_per_s == pytest.approx(1 / 2)
    assert (seen.e2e_p50_s, seen.ttft_p50_s, seen.num_requests) == (2.5, 0.5, 1)


def test_a_row_tells_how_far_off_the_prediction_was():
    samples = [Sample(Size(1, 10), 0.0, 1.0, 3.0)]
    slow = [Sample(Size(1, 10), 0.0, 1.0, 4.0)]
    row = Row("1 client", figures(slow, 0.0, 10.0), figures(samples, 0.0, 10.0))
    assert row.error("e2e_p50_s") == pytest.approx(1 / 3)
    assert "+33 %" in render([row])
