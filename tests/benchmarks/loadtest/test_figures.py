"""Figures by hand-made records, and the page that defines them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.loadtest.client import SHORT
from benchmarks.loadtest.figures import FIGURES, Seen, figures_of, queue_warning, warning_of
from benchmarks.loadtest.record import Record
from benchmarks.slo import Slo

ROOT = Path(__file__).resolve().parents[3]


def reply(due_at_s: float = 0.0, **fields: Any) -> Record:
    """21 tokens, 3 of them thinking: text after 0.5 s, the answer after 1, the end after 1.5."""
    values = {
        "sent_at_s": due_at_s,
        "first_at_s": due_at_s + 0.5,
        "answer_at_s": due_at_s + 1.0,
        "ended_at_s": due_at_s + 1.5,
        "status": 200,
        "done": True,
        "finish_reason": "stop",
        "prompt_tokens": 20,
        "output_tokens": 21,
        "reasoning_tokens": 3,
        "num_events": 22,
        "has_content": True,
    }
    return Record("t", due_at_s, **(values | fields))


def figures(*records: Record, slo: Slo | None = None, **seen: Any) -> dict[str, float]:
    values = {"begin_s": 0.0, "end_s": 10.0, "num_events": 0} | seen
    return figures_of(Seen(records, records, **values), slo or Slo())


def test_latencies_of_one_reply() -> None:
    found = figures(reply())
    assert found["ttft_p50_ms"] == pytest.approx(500)
    assert found["ttfa_p99_ms"] == pytest.approx(1000)
    assert found["e2e_p90_ms"] == pytest.approx(1500)
    assert found["tpot_p50_ms"] == pytest.approx(50)


def test_latencies_count_from_when_a_request_was_due() -> None:
    """A client that was late makes them longer, not shorter."""
    late = reply(sent_at_s=0.4)
    assert figures(late)["ttft_p50_ms"] == pytest.approx(500)


def test_tokens_per_second_are_what_arrived_in_the_window() -> None:
    """Also of replies that end after it: 44 chunks of which 22 make 21 tokens."""
    found = figures(reply(), num_events=44)
    assert found["output_tokens_per_s"] == pytest.approx(44 * 21 / 22 / 10)


def test_requests_per_second_are_those_that_ended_in_the_window() -> None:
    records = [reply(0.0), reply(8.0), reply(9.0)]
    assert figures(*records)["requests_per_s"] == pytest.approx(2 / 10)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(), True),
        (Slo(ttft_ms=499, tpot_ms=None), False),
        (Slo(ttft_ms=None, tpot_ms=49), False),
        (Slo(ttft_ms=None, tpot_ms=None, ttfa_ms=999), False),
        (Slo(ttft_ms=None, tpot_ms=None, e2e_ms=1499), False),
        (Slo(500.1, 50.1, 1000.1, 1500.1), True),
    ],
)
def test_goodput_asks_for_every_limit(slo: Slo, good: bool) -> None:
    found = figures(reply(), slo=slo)
    assert found["good"] == float(good)
    assert found["goodput_per_s"] == pytest.approx(good / 10)


def test_what_failed_is_not_good_and_each_failure_is_of_one_kind() -> None:
    failed = reply(status=500, done=False, error="no")
    refused = reply(status=429, done=False, error="later")
    hung_up = reply(ended_at_s=None, done=False, left_at_s=30.0)
    found = figures(reply(), failed, refused, hung_up)
    assert found["good"] == found["failed"] == found["refused"] == found["unfinished"] == 0.25
    assert found["ttft_p50_ms"] == pytest.approx(500)


def test_an_error_event_before_done_is_a_failure() -> None:
    """As vLLM ends a stream whose engine died."""
    found = figures(reply(error='{"message": "EngineCore died"}'))
    assert found["good"] == 0
    assert found["failed"] == 1
    assert "e2e_p50_ms" not in found


def test_who_was_hung_up_on_counts_with_the_time_until_then() -> None:
    """Else the slowest would be left out of the percentiles."""
    silent = reply(first_at_s=None, answer_at_s=None, ended_at_s=None, done=False, left_at_s=60.0)
    found = figures(*(reply() for _ in range(9)), silent)
    assert found["ttft_p99_ms"] > 50_000
    assert found["e2e_p99_ms"] > 50_000
    assert found["ttft_p50_ms"] == pytest.approx(500)
    assert found["unfinished"] == pytest.approx(0.1)


def test_what_never_came_keeps_to_no_limit() -> None:
    empty = reply(first_at_s=None, answer_at_s=None, output_tokens=0, has_content=False)
    assert figures(empty)["good"] == 0
    no_answer = reply(answer_at_s=None, has_content=False, finish_reason="length")
    assert figures(no_answer)["good"] == 1
    assert figures(no_answer, slo=Slo(ttfa_ms=60_000))["good"] == 0


def test_a_server_without_usage_has_a_token_a_chunk() -> None:
    records = [reply(output_tokens=0, reasoning_tokens=0, prompt_tokens=0) for _ in range(20)]
    found = figures(*records, num_events=440)
    assert found["output_tokens_per_s"] == pytest.approx(44)
    assert not {"prompt_tokens", "reasoning_tokens", "tpot_p50_ms"} & set(found)
    assert "reports no usage" in warning_of(found, records)


def test_shares_of_how_replies_ended() -> None:
    found = figures(
        reply(right=True),
        reply(right=False, finish_reason="length"),
        reply(has_content=False, finish_reason="length"),
        reply(recovered="eos"),
    )
    assert found["answered"] == 0.75
    assert found["truncated"] == 0.5
    assert found["recovered"] == 0.25
    assert found["right"] == 0.5


def test_what_can_not_be_told_is_left_out() -> None:
    found = figures(reply(answer_at_s=None, output_tokens=1, reasoning_tokens=0))
    assert not {"ttfa_p50_ms", "tpot_p50_ms", "itl_p50_ms", "right"} & set(found)
    assert "ttft_p50_ms" not in figures()


def test_lengths_are_means_of_replies() -> None:
    found = figures(reply(), reply(reasoning_tokens=5, prompt_tokens=40))
    assert found["prompt_tokens"] == 30
    assert found["reasoning_tokens"] == 4
    assert found["answer_tokens"] == 17


@pytest.mark.parametrize(
    ("figures", "warning"),
    [
        ({}, ""),
        ({"client_cpu": 0.95}, "0.95 of a core"),
        ({"client_lag_p99_ms": 80.0}, "80 ms late"),
        ({"num_requests": 5.0}, "fewer than 20 requests"),
    ],
)
def test_why_figures_may_be_worth_little_is_told(figures: dict[str, float], warning: str) -> None:
    calm = {"client_cpu": 0.3, "client_lag_p99_ms": 4.0, "num_requests": 500.0}
    said = warning_of(calm | figures, [reply()])
    assert warning in said
    assert bool(said) == bool(warning)


def test_a_queue_that_grows_is_told() -> None:
    assert queue_warning({"num_requests": 100.0, "requests_per_s": 9.5}, 10.0) == ""
    said = queue_warning({"num_requests": 100.0, "requests_per_s": 6.0}, 10.0)
    assert "10 requests per second were due and 6 ended" in said


def test_a_client_that_is_short_of_sockets_is_told() -> None:
    assert "short of sockets" in warning_of({"num_requests": 50.0}, [reply(error=SHORT)])


def test_every_figure_is_on_the_page_of_definitions() -> None:
    page = (ROOT / "docs" / "load-tests.md").read_text()
    for name in FIGURES:
        stem = name.split("_p50")[0].split("_p90")[0].split("_p99")[0]
        assert f"`{name}`" in page or f"`{stem}_p50_ms`" in page, name
