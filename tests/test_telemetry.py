"""Metrics of how thinking went, from requests to the router over the stand-in engine."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve import __version__
from serve.replica import EJECTIONS
from serve.settings import config_dir
from serve.telemetry import REJECTIONS
from serve.upstream import RETRIES
from tests.faults.support import connect
from tests.support import RunningRouter, eventually, running_router

CHAT = "/v1/chat/completions"
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
    labels = {"preset": "code", "class": "interactive"}
    assert await metric(router, "r1_time_to_first_answer_seconds_count", **labels) == 1


async def test_votes_are_measured_and_their_answers_not_logged(
    router: RunningRouter, caplog: pytest.LogCaptureFixture
) -> None:
    """Every sample is a generation of its own; the access log has the share, not the answers."""
    caplog.set_level(logging.INFO, "serve.journal")
    samples = [{"think": 9, "answer": f"\n\n\\boxed{{{n}}}"} for n in (77177, 77177, 77177, 3)]
    text = "script:" + json.dumps({"choices": samples})
    await router.chat(text, preset="math", votes=4, seed=0)
    assert await metric(router, "r1_vote_agreement_count", preset="math") == 1
    assert await metric(router, "r1_vote_samples_sum", preset="math") >= 2
    assert await metric(router, "r1_thinking_tokens_count", preset="math") >= 2
    assert "77177" not in caplog.text
    assert "legs=first first" in caplog.text


async def test_a_refused_request_has_no_phases(router: RunningRouter) -> None:
    await router.chat("hi", preset="math", votes={"n": 2, "answer_form": "x"})
    assert await metric(router, "r1_thinking_tokens_count", preset="math") == 0


async def test_the_process_tells_what_it_takes_of_the_machine(router: RunningRouter) -> None:
    assert await metric(router, "r1_process_cpu_seconds_total") > 0
    assert await metric(router, "r1_process_resident_memory_bytes") > 10 * 2**20


async def test_how_generations_ended_is_counted(router: RunningRouter) -> None:
    """The engine's word for it; `length` where the answer was cut off."""
    await router.chat(scripted(), preset="math")
    await router.chat(scripted(), preset="math", max_tokens=26, recover=False)
    await router.chat(scripted(answer="\n\none two three"), preset="math", stop=["two"])
    for reason, count in (("stop", 2), ("length", 1)):
        labels = {"preset": "math", "finish_reason": reason}
        assert await metric(router, "r1_generations_total", **labels) == count, reason


async def test_an_end_that_the_engine_never_told_before_is_other() -> None:
    script = scripted(finish_reason="tired")
    async with (
        StandInEngine(Options(step_ms=0.2, prefill_ms=0)) as engine,
        running_router(engine.url) as router,
    ):
        await router.chat(script, preset="math")
        labels = {"preset": "math", "finish_reason": "other"}
        assert await metric(router, "r1_generations_total", **labels) == 1


async def test_requests_that_no_reply_was_made_for_are_counted(router: RunningRouter) -> None:
    """Not understood, or no engine there: by route, their preset not known."""
    await router.chat(unknown_field=1)
    labels = {"route": "/v1/chat/completions", "preset": ""}
    assert await metric(router, "r1_requests_total", outcome="invalid", **labels) == 1
    for replica in router.router.replicas.replicas:
        replica.health.drain()
    assert (await router.chat()).status_code == 503
    assert await metric(router, "r1_requests_total", outcome="unavailable", **labels) == 1
    assert await metric(router, "r1_rejections_total", reason="not_ready") == 1


async def test_a_client_that_leaves_before_its_request_is_whole_is_counted(
    router: RunningRouter,
) -> None:
    _, writer = await connect(router.url)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    labels = {"route": CHAT, "preset": "", "outcome": "client_gone"}

    async def counted() -> bool:
        return await metric(router, "r1_requests_total", **labels) == 1

    await eventually(counted)


async def test_only_replies_that_ended_well_have_a_duration(router: RunningRouter) -> None:
    """Refusals take no time: under overload they would make the server look fast."""
    await router.chat(scripted(), preset="math")
    await router.chat("hi", preset="math", votes={"n": 2, "answer_form": "x"})
    await router.chat(scripted(fault={"kind": "status", "status": 500}), preset="math")
    assert await metric(router, "r1_requests_total", preset="math", outcome="error", route=CHAT)
    assert await metric(router, "r1_request_seconds_count", preset="math") == 1


async def test_whether_files_could_be_read_again_is_told(tmp_path: Path) -> None:
    """A broken file leaves the old presets in use, and a 0 that stays until it is mended."""
    presets = tmp_path / "presets.toml"
    shipped = (config_dir() / "presets.toml").read_text()
    presets.write_text(shipped)
    async with running_router("http://127.0.0.1:9", wait_ready=False, presets=str(presets)) as it:
        for text, value in (("[presets", 0), (shipped, 1)):
            presets.write_text(text)
            it.router.reload()
            assert await metric(it, "r1_last_reload_successful", file="presets") == value
        assert await metric(it, "r1_build_info", version=__version__) == 1


async def test_counts_of_known_events_begin_at_0(router: RunningRouter) -> None:
    """Of a series that begins at 1 Prometheus' `increase` doesn't see the first event."""
    text = (await router.http.get("/metrics")).text
    for reason in REJECTIONS:
        assert f'r1_rejections_total{{reason="{reason}"}} 0.0' in text
    for reason in RETRIES:
        assert f'r1_retries_total{{reason="{reason}"}} 0.0' in text
    for reason in EJECTIONS:
        assert re.search(f'r1_replica_ejections_total{{.*reason="{reason}".*}} 0.0', text)
    assert "_created" not in text
