"""The access log: what a line says, what never stands in it, and readers that are slow or gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.access_log import AccessLog, standard_output
from serve.keys import new_key
from serve.settings import ServerSettings, SettingsError, TelemetrySettings
from serve.worker import Worker
from tests.conftest import R1_SERVE, ROOT
from tests.listening import Log
from tests.support import RunningRouter, eventually, running_router

FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}
ON = TelemetrySettings(access_log=True)


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(think_tokens=60, answer_tokens=8, **FAST)) as engine:
        yield engine


@contextlib.asynccontextmanager
async def logged(log: Log, *engines: StandInEngine, **more: Any) -> AsyncIterator[RunningRouter]:
    urls = [engine.url for engine in engines]
    worker = Worker(log_fd=log.write_fd)
    async with running_router(*urls, telemetry=ON, worker=worker, **more) as router:
        yield router


# --- what a line says ---------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_line_tells_how_the_reply_went(
    log: Log, engine: StandInEngine, stream: bool
) -> None:
    """It agrees with the reply: id, usage, budget; its times are in order."""
    async with logged(log, engine) as router:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        reply = await router.chat("hi", thinking_token_budget=50, priority=3, **options)
        line = await log.next()
    text = reply.text
    whole = json.loads(text.split("\n\n")[-3].removeprefix("data: ") if stream else text)
    usage = whole["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert line["request_id"] == line["id"] == whole["id"] == reply.headers["x-request-id"]
    expected = {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "model": "stand-in",
        "preset": "chat",
        "stream": stream,
        "priority": 3,
        "prompt_tokens": usage["prompt_tokens"],
        "reasoning_tokens": thought,
        "answer_tokens": usage["completion_tokens"] - thought,
        "thinking_token_budget": 50,
        "budget_source": "request",
        "thinking_ended_by": ["budget"],
    }
    assert line.items() >= expected.items()
    assert line["timestamp"].endswith("Z")
    assert 0 <= line["queued_ms"] < line["first_token_ms"] < line["first_answer_ms"]
    assert line["first_answer_ms"] <= line["total_ms"]
    assert not line.keys() & {"error", "key", "votes", "trace_id"}
    legs = line["legs"]
    assert {leg["replica"] for leg in legs} == {engine.url}
    assert legs[0]["kind"] == "first"
    assert sum(leg["tokens"] for leg in legs) == usage["completion_tokens"]
    assert legs[-1]["at_ms"] + legs[-1]["ms"] <= line["total_ms"]


async def test_a_streamed_completion_has_its_first_text(log: Log, engine: StandInEngine) -> None:
    """Also to the metrics; a whole one passes at once."""
    async with logged(log, engine) as router:
        for stream in (True, False):
            body = {"prompt": "x", "max_tokens": 9, "stream": stream}
            await router.http.post("/v1/completions", json=body)
            line = await log.next()
            assert ("first_token_ms" in line) is stream
            assert 0 <= line.get("first_token_ms", 0) <= line["total_ms"]
        metrics = router.router.telemetry.exposition().decode()
    assert 'seconds_count{class="interactive",preset=""} 1.0' in metrics


async def test_a_clients_id_is_kept_and_the_reply_has_it(log: Log, engine: StandInEngine) -> None:
    """On every kind of reply; the reply's own id stays one of ours, as the engine has it."""
    said = {"messages": [{"role": "user", "content": "x"}]}
    async with logged(log, engine, headers={"x-request-id": "mine-1"}) as router:
        for path, body, status in (
            ("/v1/chat/completions", said, 200),
            ("/v1/completions", {"prompt": "x"}, 200),
            ("/v1/messages", {"max_tokens": 9, **said}, 200),
            ("/v1/chat/completions", {"messages": 7}, 400),
            ("/tokenize", {"prompt": "x"}, 200),
            ("/nowhere", {}, 404),
        ):
            reply = await router.http.post(path, json={"model": "stand-in"} | body)
            assert (reply.status_code, reply.headers["x-request-id"]) == (status, "mine-1"), path
            assert reply.headers.get_list("x-request-id") == ["mine-1"]
            line = await log.next()
            assert (line["request_id"], line["status"]) == ("mine-1", status)
            if "id" in line:
                assert line["id"] == reply.json()["id"] != "mine-1"


async def test_a_failover_and_a_vote_have_their_legs(log: Log) -> None:
    async with (
        StandInEngine(Options(**FAST)) as first,
        StandInEngine(Options(**FAST)) as second,
        logged(log, first, second, balancing="round_robin") as router,
    ):
        first.arm(Fault("close", after=9, times=1))
        await router.chat("hi", stream=True)
        line = await log.next()
        broken, rest = line["legs"]
        assert (broken["kind"], broken["replica"]) == ("first", first.url)
        assert broken["error"] == "UpstreamError"
        assert (rest["kind"], rest["replica"]) == ("failover", second.url)
        assert broken["tokens"] > 0
        total = line["reasoning_tokens"] + line["answer_tokens"]
        assert broken["tokens"] + rest["tokens"] == total
        assert rest["at_ms"] >= broken["at_ms"] + broken["ms"]

        answer = {"think": 9, "answer": "\n\n\\boxed{77177}"}
        script = "script:" + json.dumps({"choices": [answer] * 3})
        await router.chat(script, preset="math", votes=3, seed=0)
        line = await log.next()
        assert line["votes"].items() >= {"n": 3, "strategy": "majority", "share": 1.0}.items()
        assert {leg.get("choice", 0) for leg in line["legs"]} >= {0, 1}
        assert len(line["thinking_ended_by"]) == line["votes"]["counted"]
        assert "77177" not in log.text


async def test_what_thinking_did_not_end_has_a_leg_to_the_answer(
    log: Log, engine: StandInEngine
) -> None:
    async with logged(log, engine) as router:
        await router.chat("hi", max_tokens=40)
        line = await log.next()
    assert [leg["kind"] for leg in line["legs"]] == ["first", "budget"]
    assert line["thinking_ended_by"] == ["budget"]


async def test_who_is_refused_is_logged_as_well(
    log: Log, engine: StandInEngine, tmp_path: Path
) -> None:
    """Before there is a plan and after it; what needs no key isn't logged."""
    key, key_id, key_hash = new_key()
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[keys.alice]\nid = "{key_id}"\nhash = "{key_hash}"\ncreated = "2026-11-01"\n'
        "max_in_flight = 1\n"
    )
    server = ServerSettings(port=0, drain_timeout_s=5, keys_file=str(keys), max_body_bytes=1000)
    told = []
    bearer = {"authorization": f"Bearer {key}"}
    async with logged(log, engine, server=server, headers=bearer) as router:
        for path in ("/health", "/ready", "/metrics", "/replicas", "/ui/", "/ui/main.js"):
            await router.http.get(path)
        for body in (b"{", b'{"messages": []}', b"x" * 2000):
            await router.http.post("/v1/chat/completions", content=body)
            told.append(await log.next())
        await router.http.post("/v1/chat/completions", json={}, headers={"authorization": "no"})
        told.append(await log.next())
        await router.http.get("/v1/chat/completions")
        told.append(await log.next())
        await router.chat("hi", model="another")
        told.append(await log.next())
        slow = asyncio.create_task(router.stream("script:" + json.dumps({"think": 3000})))
        await eventually(lambda: bool(engine.running))
        await router.chat("hi")
        told.append(await log.next())
        slow.cancel()
        gone = await log.next()
    assert [(it["status"], it["outcome"], it["error"], it.get("key")) for it in told] == [
        (400, "invalid", "malformed_json", "alice"),
        (400, "invalid", "invalid_value", "alice"),
        (413, "invalid", "body_too_large", "alice"),
        (401, "invalid", "invalid_api_key", None),
        (405, "invalid", "method_not_allowed", "alice"),
        (404, "invalid", "model_not_found", "alice"),
        (429, "rejected", "rate_limit_exceeded", "alice"),
    ]
    assert {it["route"] for it in told} == {"/v1/chat/completions"}
    assert "legs" not in told[-1]
    assert (gone["status"], gone["outcome"]) == (200, "client_gone")
    assert gone["legs"][0]["error"] == "CancelledError"
    assert key not in log.text
    assert key_hash not in log.text


async def test_a_client_that_left_before_the_reply_began(log: Log, engine: StandInEngine) -> None:
    """Nothing was sent: 499, as nginx has it."""
    async with logged(log, engine) as router:
        asked = asyncio.create_task(router.chat("script:" + json.dumps({"think": 3000})))
        await eventually(lambda: bool(engine.running))
        asked.cancel()
        line = await log.next()
    assert (line["status"], line["outcome"]) == (499, "client_gone")
    assert line["legs"][0]["tokens"] < 3000


# --- what never stands in it --------------------------------------------------------------------


async def test_nothing_that_a_client_says_is_told(
    log: Log, engine: StandInEngine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """Secrets in every place of a request: neither in the access log, nor in any other output, with
    the access log on or off."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "asyncio"):  # the test's own client
        logging.getLogger(name).setLevel(logging.WARNING)
    num_requests = 0
    marks: list[str] = []

    def secret() -> str:
        marks.append(f"s3cr3t{len(marks)}x")
        return marks[-1]

    def requests() -> Iterator[tuple[str, bytes]]:
        tool = {
            "type": "function",
            "function": {
                "name": secret(),
                "description": secret(),
                "parameters": {"type": "object", "properties": {secret(): {"const": secret()}}},
            },
        }
        said = [
            {"role": "system", "content": secret()},
            {"role": "user", "content": secret(), "name": secret()},
            {"role": "assistant", "content": secret(), "reasoning_content": secret()},
            {"role": "user", "content": f"script:{json.dumps({'answer': secret()})}"},
        ]
        chat: dict[str, Any] = {"messages": said}
        known: dict[str, Any] = {
            "user": secret(),
            "metadata": {secret(): secret()},
            "stop": [secret()],
            "safety_identifier": secret(),
            "prompt_cache_key": secret(),
            "cache_salt": secret(),
            "tools": [tool],
        }
        for more in (
            known,
            {"stream": True},
            {"n": 2},
            {secret(): secret()},
            {"model": secret()},
            {"preset": secret()},
            {"temperature": secret()},
            {"tool_choice": secret(), "tools": [tool]},
            {"response_format": {"type": "json_schema", "json_schema": {"name": secret()}}},
        ):
            yield "/v1/chat/completions", json.dumps(chat | more).encode()
        yield "/v1/chat/completions", f'{{"messages": "{secret()}'.encode()
        yield "/v1/chat/completions", b"\xff" + secret().encode()
        yield "/v1/completions", json.dumps({"prompt": secret(), "suffix": secret()}).encode()
        yield "/v1/responses", json.dumps({"input": secret(), "instructions": secret()}).encode()
        yield "/v1/messages", json.dumps({"max_tokens": 5, **chat, "system": secret()}).encode()
        yield f"/v1/chat/completions?{secret()}={secret()}", json.dumps(chat).encode()
        yield f"/v1/{secret()}", b"{}"
        yield f"/v1/models/{secret()}", b""
        yield "/tokenize", json.dumps({"prompt": secret()}).encode()

    for telemetry in (ON, TelemetrySettings()):
        async with running_router(
            engine.url, telemetry=telemetry, worker=Worker(log_fd=log.write_fd)
        ) as router:
            for path, body in requests():
                headers = {"x-own": secret(), "cookie": secret(), "authorization": secret()}
                method = "POST" if body else "GET"
                await router.http.request(method, path, content=body, headers=headers)
                num_requests += telemetry.access_log
    log.read()
    captured = capfd.readouterr()
    output = log.text + caplog.text + captured.out + captured.err
    assert len(log.lines) == num_requests
    assert [line["outcome"] for line in log.lines].count("ok") >= 6
    assert not [mark for mark in marks if mark in output]


# --- readers that are slow or gone --------------------------------------------------------------


async def test_a_reader_that_never_reads_holds_nobody_up(
    log: Log, engine: StandInEngine, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """What doesn't fit is lost and told once; the end waits for it shortly only."""
    monkeypatch.setattr("serve.access_log.MAX_BACKLOG_BYTES", 3000)
    monkeypatch.setattr("serve.access_log.LAST_LINES_S", 0.1)
    async with logged(log, engine) as router:
        access_log = router.router.journal.access_log
        assert access_log is not None
        fill(log)
        async with asyncio.timeout(20):
            while access_log.num_lost < 3:
                assert (await router.chat("hi")).status_code == 200
    told = [it.getMessage() for it in caplog.records if it.name == "serve.access_log"]
    assert told[0] == "the access log's reader can't keep up: lines are lost"
    assert told[1].startswith("lines of the access log that were lost: ")
    assert len(told) == 2
    await eventually(lambda: bool(log.read()) and "access-log" not in names_of_threads())


def fill(log: Log) -> None:
    """The pipe takes no line more."""
    os.set_blocking(log.write_fd, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(log.write_fd, b'{"x":1}\n' * 512):
            pass
    os.set_blocking(log.write_fd, True)


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def test_each_time_that_lines_are_lost_is_told(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how many, once the reader keeps up again."""
    monkeypatch.setattr("serve.access_log.MAX_BACKLOG_BYTES", 3000)
    access_log = AccessLog(log.write_fd)

    def told() -> list[str]:
        return [it.getMessage() for it in caplog.records if it.name == "serve.access_log"]

    async with access_log.running():
        for num_lost in (5, 10):
            fill(log)
            while access_log.num_lost < num_lost:
                access_log.write(b'{"y":1}\n')
            num_told = len(told())
            await eventually(lambda more=num_told + 1: bool(log.read()) and len(told()) == more)
    begun = "the access log's reader can't keep up: lines are lost"
    over = "the access log's reader keeps up again; lines lost: 5"
    assert told() == [begun, over, begun, over, "lines of the access log that were lost: 10"]


async def test_a_reader_that_is_gone_is_told_of_once(
    log: Log, engine: StandInEngine, caplog: pytest.LogCaptureFixture
) -> None:
    log.stop_reading()
    async with logged(log, engine) as router:
        access_log = router.router.journal.access_log
        assert access_log is not None
        for num_lost in (1, 2, 3):
            assert (await router.chat("hi")).status_code == 200
            await eventually(lambda wanted=num_lost: access_log.num_lost == wanted)
    told = [it.getMessage() for it in caplog.records if it.name == "serve.access_log"]
    assert told == [
        "the access log can't be written, its lines are lost: Broken pipe",
        "lines of the access log that were lost: 3",
    ]


async def test_a_file_that_can_be_written_again_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was full for a while."""
    write, full = os.write, [True]

    def filling(fd: int, data: bytes) -> int:
        if full[0]:
            raise OSError(28, "No space left on device")
        return write(fd, data[:5])  # and in parts

    monkeypatch.setattr("serve.access_log.os.write", filling)
    with (tmp_path / "log").open("wb") as file:
        access_log = AccessLog(file.fileno())
        async with access_log.running():
            access_log.write(b"lost line\n")
            await eventually(lambda: access_log.num_lost == 1)
            full[0] = False
            access_log.write(b"whole line\n")
    assert (tmp_path / "log").read_bytes() == b"whole line\n"
    assert "the access log is written again; lines lost: 1" in caplog.text


async def test_a_non_blocking_pipe_is_waited_for() -> None:
    """Whoever shares our standard output may have made it so."""
    log = Log()
    os.set_blocking(log.write_fd, False)
    access_log = AccessLog(log.write_fd)
    async with access_log.running():
        for number in range(3000):
            access_log.write(json.dumps({"n": number, "x": "x" * 100}).encode() + b"\n")
        await eventually(lambda: len(log.read()) == 3000)
    assert [line["n"] for line in log.lines] == list(range(3000))
    log.close()


async def test_lines_of_several_processes_stay_whole() -> None:
    """They write to one pipe at the same time."""
    code = (
        "import asyncio, sys\nfrom serve.access_log import AccessLog\n"
        "async def main():\n log = AccessLog(1)\n async with log.running():\n"
        "  for n in range(3000):\n"
        "   log.write(b'{\"p\": \"' + sys.argv[1].encode() * (n % 700) + b'\"}\\n')\n"
        "asyncio.run(main())"
    )
    log = Log()
    command = sys.executable, "-c", code
    writers = [
        await asyncio.create_subprocess_exec(*command, name, stdout=log.write_fd, cwd=ROOT)
        for name in "abc"
    ]
    try:
        await eventually(lambda: len(log.read()) == 9000)
    finally:
        for writer in writers:
            with contextlib.suppress(ProcessLookupError):
                writer.kill()
            await writer.wait()
    assert all(len(set(line["p"])) < 2 for line in log.lines)
    log.close()


def test_a_closed_standard_output_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be a socket's by then."""
    monkeypatch.setattr("sys.__stdout__", None)
    with pytest.raises(SettingsError, match="standard output, which is closed"):
        standard_output()


async def test_workers_log_to_the_one_standard_output(
    engine: StandInEngine, tmp_path: Path
) -> None:
    """Theirs is the line to their parent."""
    config = tmp_path / "t.toml"
    config.write_text(f'[router]\nengine_urls = ["{engine.url}"]\n[telemetry]\naccess_log = true\n')
    argv = [*R1_SERVE, "router", "--config", str(config), "--port", "0", "--workers", "2"]
    program = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert program.stdout is not None
    assert program.stderr is not None
    try:
        async with asyncio.timeout(30):
            while b"Serving" not in (line := await program.stderr.readline()):
                assert line, "it has ended"
        url = next(word for word in line.decode().split() if word.startswith("http://"))
        one_each = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=one_each) as http:
            body = {"messages": [{"role": "user", "content": "hi"}]}
            replies = [await http.post("/v1/chat/completions", json=body) for _ in range(20)]
        program.terminate()
        out, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    ids = {json.loads(line)["request_id"] for line in out.splitlines()}
    assert ids == {reply.headers["x-request-id"] for reply in replies}
