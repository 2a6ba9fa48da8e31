"""Reading an engine's metrics page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.load import EngineLoad, engine_pressure, parse_load

PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} b"} 3.0
vllm:num_requests_running{engine="1",model_name="a} b"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+06
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 7.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 55.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 8.0
process_open_fds 12.0
"""


def test_load_is_summed_over_ranks() -> None:
    """Running and waiting add up, the fullest cache counts, similar names are others."""
    load = parse_load(PAGE)
    assert load is not None
    assert (load.num_running, load.num_waiting, load.kv_cache_usage) == (5, 4, 0.5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'_count{engine="0",model_name="m"} 8.0', b'_count{engine="0",model_name="m"} 9.0'),
        (b"} 7.0", b"} 8.0"),
        (b"1.5e+06", b"1.6e+06"),
        (b"} 0.25", b"} 0.26"),
    ],
)
def test_every_sign_of_a_step_is_progress(old: bytes, new: bytes) -> None:
    """Tokens out, tokens in, and a cache that fills while a long prompt is read."""
    before, after = parse_load(PAGE), parse_load(PAGE.replace(old, new))
    assert before is not None
    assert after is not None
    assert before.progress != after.progress


def test_requests_that_arrive_are_no_progress() -> None:
    before, after = parse_load(PAGE), parse_load(PAGE.replace(b"} 4.0", b"} 5.0"))
    assert before is not None
    assert after is not None
    assert before.progress == after.progress


@pytest.mark.parametrize("text", [b"", b"<html>", b"other_metric 1.0\n", b"vllm:num_requests_r"])
def test_what_is_no_engines_page_gives_nothing(text: bytes) -> None:
    assert parse_load(text) is None


@given(st.binary())
def test_any_bytes_can_be_read(text: bytes) -> None:
    """Never an exception, whatever stands where a number should."""
    parse_load(text)
    parse_load(PAGE + b"vllm:num_requests_running 1" + text)


def test_engines_press_by_their_cache_or_by_who_waits() -> None:
    """All together: one that is full while others have room is no reason to think less."""

    def load(num_running: int, num_waiting: int, usage: float) -> EngineLoad:
        return EngineLoad(num_running, num_waiting, usage, ())

    assert engine_pressure([]) == 0
    assert engine_pressure([load(50, 0, 0.9), load(50, 0, 0.3)]) == pytest.approx(0.6)
    assert engine_pressure([load(64, 64, 0.3)]) == 1
    assert engine_pressure([load(64, 64, 0.3), load(64, 0, 0.3)]) == pytest.approx(2 / 3)
    assert engine_pressure([load(0, 10**6, 0.3)]) == 2
    assert engine_pressure([load(1, 1, 0.0)]) < 0.2, "on its way into the batch"
