"""Metrics of how thinking went, from requests to the router over the stand-in engine."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.stand_in import Options, StandInEngine
from tests.support import RunningRouter, running_router

LOOP = "Wait, 2 + 2 may be 5. Let me check. "


@pytest.fixture
async def router() -> AsyncIterator[RunningRouter]:
    async with (
        StandInEngine(Options(step_ms=0.2, prefill_ms=0)) as engine,
        running_router(engine.url) as router,
    ):
        yield router


async def metric(router: RunningRouter, name: str, **labels: str) -> float:
    """The sample with just these labels, or 0."""
    for line in (await router.http.get("/metrics")).text.splitlines():
        found = re.fullmatch(r"(\w+)(?:{(.*)})? (\S+)", line)
        if found and found[1] == name:
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if pairs == labels:
                return float(found[3])
    return 0.0


def scripted(**script: Any) -> str:
    return "script:" + json.dumps({"think": 20, "answer": "\n\nIt is \\boxed{4}.", **script})


async def test_what_ended_the_thinking_is_counted(router: RunningRouter) -> None:
    """By preset: the model, its budget, giving up, going in circles; nothing, if not recovered."""
    ends: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("model", {}, {}),
        ("budget", {}, {"thinking_token_budget": 7}),
        ("eos", {"gives_up_after": 5}, {}),
        ("repetition", {"think": LOOP * 50}, {}),
        ("nothing", {"gives_up_after": 5}, {"recover": False}),
    ]
    for by, script, fields in ends:
        await router.chat(scripted(**script), preset="math", **fields)
        assert await metric(router, "r1_thinking_ends_total", preset="math", by=by) == 1, by
    assert await metric(router, "r1_thinking_tokens_count", preset="math") == len(ends)
    assert await metric(router, "r1_answer_tokens_count", preset="math") == len(ends)
    labels = {"preset": "math", "source": "request"}
    assert await metric(router, "r1_thinking_budgets_total", **labels) == 1


async def test_tokens_of_both_phases_are_measured(router: RunningRouter) -> None:
    usage = (await router.chat(scripted(), preset="code")).json()["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert await metric(router, "r1_thinking_tokens_sum", preset="code") == thought
    answered = usage["completion_tokens"] - thought
    assert await metric(router, "r1_answer_tokens_sum", preset="code") == answered
    assert await metric(router, "r1_thinking_budget_tokens_sum", preset="code") == 16384
    assert await metric(router, "r1_time_to_first_answer_seconds_count", preset="code") == 1


async def test_votes_are_measured_and_their_answers_not_logged(
    router: RunningRouter, caplog: pytest.LogCaptureFixture
) -> None:
    """Every sample is a generation of its own; the access log has the share, not the answers."""
    caplog.set_level(logging.INFO, "serve.chat")
    samples = [{"think": 9, "answer": f"\n\n\\boxed{{{n}}}"} for n in (77177, 77177, 77177, 3)]
    text = "script:" + json.dumps({"choices": samples})
    await router.chat(text, preset="math", votes=4, seed=0)
    assert await metric(router, "r1_vote_agreement_count", preset="math") == 1
    assert await metric(router, "r1_vote_samples_sum", preset="math") >= 2
    assert await metric(router, "r1_thinking_tokens_count", preset="math") >= 2
    assert "77177" not in caplog.text
    assert re.search(r"'votes': '(1.00|0.67)'", caplog.text)


async def test_a_refused_request_has_no_phases(router: RunningRouter) -> None:
    await router.chat("hi", preset="math", votes={"n": 2, "answer_form": "x"})
    assert await metric(router, "r1_thinking_tokens_count", preset="math") == 0


async def test_the_process_tells_what_it_takes_of_the_machine(router: RunningRouter) -> None:
    assert await metric(router, "r1_process_cpu_seconds_total") > 0
    assert await metric(router, "r1_process_resident_memory_bytes") > 10 * 2**20
