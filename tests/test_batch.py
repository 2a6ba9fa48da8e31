"""Bulk jobs over the stand-in: what is tried again, what is an answer, who comes first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.batch import Batch, Endpoint, EndpointError
from serve.batch_files import opened
from serve.engine_process import free_port
from serve.key_commands import add_key
from serve.keys import Key, new_key
from serve.settings import ServerSettings
from tests.support import eventually, running_router

QUICK = {"step_ms": 0.2, "prefill_ms": 0, "think_tokens": 3, "answer_tokens": 3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.batch.FIRST_WAIT_S", 0.01)


def chat(content: str = "hi", url: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    return {"url": url, "body": {"messages": [{"role": "user", "content": content}], **fields}}


async def run(
    directory: Path, url: str, requests: Iterable[dict[str, Any]], key: str | None = None
) -> dict[str, dict[str, Any]]:
    """The answers by `custom_id`, which is the request's number."""
    lines = [json.dumps({"custom_id": str(n)} | request) for n, request in enumerate(requests)]
    (directory / "in.jsonl").write_text("\n".join(lines))
    with opened(directory / "in.jsonl", directory / "out.jsonl") as job:
        await Batch(job, Endpoint(url, key), 4).run()
        assert job.num_answered == job.num_lines == len(lines)
    answers = [json.loads(line) for line in (directory / "out.jsonl").read_text().splitlines()]
    return {it["custom_id"]: it for it in answers}


async def test_every_form_is_answered(tmp_path: Path) -> None:
    """Chat, completion, responses; a bad request's answer is the error."""
    requests = [
        chat("1"),
        {"url": "/v1/completions", "body": {"prompt": "2"}},
        {"url": "/v1/responses", "body": {"input": "3"}},
        chat(temperature=-5),
        {"url": "/v1/embeddings", "body": {}},
    ]
    async with StandInEngine(Options(**QUICK)) as engine, running_router(engine.url) as router:
        answers = await run(tmp_path, router.url + "/v1", requests)
    objects = [answers[n]["response"]["body"].get("object") for n in "012"]
    assert objects == ["chat.completion", "text_completion", "response"]
    assert answers["0"]["response"]["request_id"] == answers["0"]["response"]["body"]["id"]
    assert answers["3"]["response"]["status_code"] == 400
    assert answers["3"]["response"]["body"]["error"]["param"] == "temperature"
    assert answers["3"]["error"] is None
    assert answers["4"]["response"] is None
    assert answers["4"]["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("kind", ["busy", "not ready", "fault", "cut"])
async def test_what_may_succeed_later_is_tried_again(tmp_path: Path, kind: str) -> None:
    fault = {
        "busy": Fault("status", status=429, times=30),
        "not ready": Fault("status", status=503, times=30),
        "fault": Fault("status", status=500, times=4),
        "cut": Fault("close", after=1, times=4),
    }[kind]
    async with StandInEngine(Options(**QUICK, fault=fault)) as engine:
        answers = await run(tmp_path, engine.url, [chat(model="stand-in") for _ in range(8)])
    assert {it["response"]["status_code"] for it in answers.values()} == {200}


async def test_what_always_fails_is_an_answer_in_the_end(tmp_path: Path) -> None:
    """A request may be what makes the server fail; the others go on."""
    script = json.dumps({"fault": {"kind": "status", "status": 500}})
    cut = json.dumps({"fault": {"kind": "close", "after": 1}})
    poison = [chat(f"script:{it}", model="stand-in") for it in (script, cut)]
    good = [chat(model="stand-in") for _ in range(4)]
    async with StandInEngine(Options(**QUICK)) as engine:
        answers = await run(tmp_path, engine.url, [*poison, *good])
    assert answers["0"]["response"]["status_code"] == 500
    assert answers["1"]["error"]["code"] == "connection_error"
    assert {answers[n]["response"]["status_code"] for n in "2345"} == {200}


async def test_an_endpoint_that_goes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the server costs no request; one that stays away ends the job, which goes on
    later."""
    port = free_port("127.0.0.1")
    slow = Options(**QUICK | {"step_ms": 5})
    requests = [chat(model="stand-in") for _ in range(40)]
    async with StandInEngine(slow, port=port) as engine:
        job = asyncio.create_task(run(tmp_path, engine.url, requests))
        await eventually(lambda: engine.counters.num_requests > 8)
    await asyncio.sleep(0.2)
    async with StandInEngine(slow, port=port) as engine:
        await eventually(lambda: engine.counters.num_requests > 8)
        monkeypatch.setattr("serve.batch.GIVE_UP_S", 0.1)
    with pytest.raises(EndpointError, match="hasn't worked for"):
        await job
    async with StandInEngine(slow, port=port) as engine:
        assert len(await run(tmp_path, engine.url, requests)) == 40
        assert engine.counters.num_requests < 40


async def test_a_job_for_nothing_ends_at_once(tmp_path: Path) -> None:
    """Nobody there; the remedy is told, and nothing is answered."""
    with pytest.raises(EndpointError, match=r"nothing answers at .* start it with `r1-serve up`"):
        await run(tmp_path, f"http://127.0.0.1:{free_port('127.0.0.1')}", [chat()])
    assert (tmp_path / "out.jsonl").read_text() == ""


async def test_the_key_is_the_endpoints(tmp_path: Path) -> None:
    """A good one is sent; a wrong one ends the job before anything is answered."""
    good, key_id, digest = new_key()
    keys_file = tmp_path / "keys.toml"
    keys_file.touch()
    add_key(keys_file, "bulk", Key(id=key_id, hash=digest, created="2026-11-26"))
    server = ServerSettings(port=0, keys_file=str(keys_file))
    async with (
        StandInEngine(Options(**QUICK)) as engine,
        running_router(engine.url, server=server) as router,
    ):
        for wrong in (None, "r1-0123456789ab-secret"):
            with pytest.raises(EndpointError, match="doesn't take the key in R1_API_KEY: "):
                await run(tmp_path, router.url, [chat()], wrong)
        assert (await run(tmp_path, router.url, [chat()], good))["0"]["error"] is None


async def test_an_answer_is_one_line(tmp_path: Path) -> None:
    """However the endpoint writes its JSON; what isn't JSON is told as text."""
    pages = Options(**QUICK, fault=Fault("content_type", times=1))
    async with StandInEngine(pages) as engine:
        answer = (await run(tmp_path, engine.url, [chat(model="stand-in")]))["0"]
    assert "<html" in answer["response"]["body"]


async def test_interactive_requests_come_first(tmp_path: Path) -> None:
    """Batch work waits in the router's line behind everyone else; `priority` of a line stays."""
    slow = Options(**QUICK | {"think_tokens": 200, "step_ms": 1})

    def num_answered() -> int:
        return (tmp_path / "out.jsonl").read_text().count("\n")

    async with (
        StandInEngine(slow) as engine,
        running_router(engine.url, max_in_flight=2) as router,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run(tmp_path, router.url, [chat() for _ in range(12)]))
        await eventually(lambda: router.router.gate.num_queued == 2)
        interactive = group.create_task(router.chat())
        await eventually(lambda: router.router.gate.num_queued == 3)
        before = num_answered()
        assert (await interactive).status_code == 200
        assert num_answered() - before <= 4, "those that ran when it came and beside it"
