"""Traces, as a receiver of OTLP gets them."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.engine import Machine, engine_command, traced
from serve.key_commands import add_key
from serve.keys import Key, new_key
from serve.record import MAX_LEGS, Record
from serve.settings import EngineSettings, ServerSettings, SettingsError, TelemetrySettings
from serve.tracing import Tracing
from serve.worker import Worker
from tests.conftest import ROOT
from tests.listening import ERROR, Kind, Log, Received, Receiver, receiving
from tests.support import RunningRouter, eventually, running_router

FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID, PARENT_ID = PARENT[3:35], PARENT[36:52]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with receiving() as receiver:
        yield receiver


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(**FAST)) as engine:
        yield engine


@contextlib.asynccontextmanager
async def tracing(
    receiver: Receiver, *engines: StandInEngine, ratio: float = 1.0, **more: Any
) -> AsyncIterator[RunningRouter]:
    telemetry = TelemetrySettings(otlp_endpoint=receiver.url, trace_ratio=ratio)
    urls = [engine.url for engine in engines]
    async with running_router(*urls, telemetry=telemetry, **more) as router:
        yield router


async def arrived(receiver: Receiver) -> tuple[Received, list[Received]]:
    """The next request's span, which leaves last, and those below it."""
    await eventually(lambda: any(span.kind == Kind.SPAN_KIND_SERVER for span in receiver.spans))
    (request,) = [span for span in receiver.spans if span.kind == Kind.SPAN_KIND_SERVER]
    below = [span for span in receiver.spans if span.parent_id == request.id]
    assert len(below) + 1 == len(receiver.spans)
    assert {span.trace_id for span in receiver.spans} == {request.trace_id}
    for span in below:
        assert request.start_ns <= span.start_ns <= span.end_ns <= request.end_ns
    receiver.spans.clear()
    return request, sorted(below, key=lambda span: span.start_ns)


def sent_parents(engine: StandInEngine) -> list[str]:
    return [seen["headers"].get("traceparent", "") for seen in engine.state()["requests"]]


async def test_a_request_and_its_call_are_spans_of_the_callers_trace(
    receiver: Receiver, engine: StandInEngine
) -> None:
    """Down to the engine, which gets the call's span as its parent. What they say is what the reply
    says."""
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    async with tracing(receiver, engine, headers=headers) as router:
        reply = (await router.chat("hi", priority=2)).json()
        request, (leg,) = await arrived(receiver)
    assert (request.trace_id, request.parent_id) == (TRACE_ID, PARENT_ID)
    assert (request.name, leg.name) == ("chat stand-in", "leg first")
    assert leg.kind == Kind.SPAN_KIND_CLIENT
    assert request.state == leg.state == "vendor=1"
    usage = reply["usage"]
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "stand-in",
        "gen_ai.response.id": reply["id"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.reasoning.output_tokens": usage["completion_tokens_details"][
            "reasoning_tokens"
        ],
        "r1.outcome": "ok",
        "r1.preset": "chat",
        "r1.priority": 2,
        "r1.thinking_ended_by": ["model"],
    }
    assert request.attributes | expected == request.attributes
    expected = {
        "server.address": "127.0.0.1",
        "server.port": int(engine.url.rpartition(":")[2]),
        "r1.leg.tokens": usage["completion_tokens"],
    }
    assert leg.attributes | expected == leg.attributes
    first, answer = request.events["r1.first_token"], request.events["r1.first_answer"]
    assert request.start_ns < first < answer < request.end_ns
    seen = engine.state()["requests"][-1]["headers"]
    assert seen["traceparent"] == f"00-{TRACE_ID}-{leg.id}-01"
    assert seen["tracestate"] == "vendor=1"
    assert request.resource["service.name"] == "r1-serve"


async def test_without_a_parent_a_trace_begins(receiver: Receiver, engine: StandInEngine) -> None:
    """So does one where the header makes no sense; each request has its own."""
    seen = set()
    async with tracing(receiver, engine) as router:
        for parent in (None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"):
            router.http.headers = {} if parent is None else {"traceparent": parent}
            await router.stream("hi")
            request, (leg,) = await arrived(receiver)
            assert request.parent_id == ""
            assert leg.id != request.id
            seen.add(request.trace_id)
    assert len(seen) == 4


async def test_the_ratio_is_for_those_whose_caller_has_not_decided(
    receiver: Receiver, engine: StandInEngine
) -> None:
    """What isn't sampled tells the engine so, and sends nothing."""
    async with tracing(receiver, engine, ratio=0.0) as router:
        await router.chat("hi")
        assert sent_parents(engine)[-1].endswith("-00")
        router.http.headers["traceparent"] = PARENT
        await router.chat("hi")
        assert sent_parents(engine)[-1].endswith("-01")
        request, _ = await arrived(receiver)
        assert request.trace_id == TRACE_ID
    async with tracing(receiver, engine, headers={"traceparent": PARENT[:-1] + "0"}) as router:
        await router.chat("hi")
        assert sent_parents(engine)[-1][:35] + sent_parents(engine)[-1][-3:] == PARENT[:35] + "-00"
    assert not receiver.spans


async def test_who_shows_no_key_makes_no_spans(
    receiver: Receiver, engine: StandInEngine, tmp_path: Path
) -> None:
    """Whatever its `traceparent` says: the decision is a client's only where it is one of ours."""
    key, key_id, key_hash = new_key()
    keys = tmp_path / "keys.toml"
    add_key(keys, "alice", Key(id=key_id, hash=key_hash, created="2026-11-30"))
    server = ServerSettings(port=0, drain_timeout_s=5, keys_file=str(keys))
    headers = {"traceparent": PARENT}
    async with tracing(receiver, engine, ratio=0.0, server=server, headers=headers) as router:
        assert (await router.chat("hi")).status_code == 401
        router.http.headers["authorization"] = f"Bearer {key}"
        assert (await router.chat("hi")).status_code == 200
    statuses = [span.attributes.get("http.response.status_code") for span in receiver.spans]
    assert sorted(statuses, key=str) == [200, None]


async def test_each_call_is_a_span(receiver: Receiver) -> None:
    """Of a failover the one that broke, as an error, and the one that went on; where the
    budget ends, the one to the answer; of a vote all samples."""
    async with (
        StandInEngine(Options(**FAST)) as first,
        StandInEngine(Options(**FAST)) as second,
        tracing(receiver, first, second, balancing="round_robin") as router,
    ):
        first.arm(Fault("close", after=9, times=1))
        await router.stream("hi")
        request, legs = await arrived(receiver)
        assert [span.name for span in legs] == ["leg first", "leg failover"]
        assert [span.attributes.get("error.type") for span in legs] == ["UpstreamError", None]
        assert [span.status.code for span in legs] == [ERROR, 0]
        assert request.status.code == 0
        parents = [*sent_parents(first), *sent_parents(second)]
        for leg in legs:
            assert f"00-{request.trace_id}-{leg.id}-01" in parents

        await router.chat("hi", max_tokens=40)
        _, legs = await arrived(receiver)
        assert [span.name for span in legs] == ["leg first", "leg budget"]

        script = "script:" + json.dumps({"choices": [{"think": 9, "answer": "\\boxed{1}"}] * 40})
        await router.chat(script, preset="math", votes=40, seed=0)
        request, legs = await arrived(receiver)
        assert len(legs) > MAX_LEGS
        assert request.attributes["r1.votes.share"] == 1.0
        parents = {parent[36:52] for parent in (*sent_parents(first), *sent_parents(second))}
        assert {leg.id for leg in legs} <= parents
        assert {span.attributes["r1.leg.choice"] for span in legs} >= {0, 1}
        assert request.attributes["r1.num_legs"] == len(legs)


async def test_requests_that_fail_are_told_without_their_messages(
    receiver: Receiver, engine: StandInEngine
) -> None:
    """A 4xx isn't the server's error; a client that left has no status."""
    async with tracing(receiver, engine, max_in_flight=1, max_queued=1, queue_timeout_s=0.1) as it:
        await it.chat("hi", s3cr3t1=True)
        request, legs = await arrived(receiver)
        assert (request.attributes["error.type"], legs) == ("unknown_parameter", [])
        assert request.status.code == 0
        assert b"s3cr3t1" not in request.raw

        slow = asyncio.create_task(it.stream("script:" + json.dumps({"think": 9000})))
        await eventually(lambda: bool(engine.running))
        assert (await it.chat("hi")).status_code == 429
        request, (wait,) = await arrived(receiver)
        assert (request.attributes["r1.outcome"], wait.name) == ("rejected", "r1.queue")
        assert wait.end_ns - wait.start_ns >= 9e7
        assert request.status.code == 0
        slow.cancel()
        request, (leg,) = await arrived(receiver)
        assert request.attributes["r1.outcome"] == "client_gone"
        assert leg.attributes["error.type"] == "CancelledError"
        assert leg.status.code == request.status.code == 0

        engine.arm(Fault("status"))
        await it.chat("s3cr3t2")
        request, _ = await arrived(receiver)
        assert (request.status.code, request.status.message) == (ERROR, "")
        assert request.attributes["error.type"] == "engine_error"


async def test_the_environment_says_who_we_are_and_how_to_get_in(
    receiver: Receiver, engine: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry's own variables; information routes make no spans."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=7")
    async with tracing(receiver, engine) as router:
        for path in ("/health", "/v1/models", "/metrics"):
            await router.http.get(path)
        await router.chat("hi")
        request, _ = await arrived(receiver)
    assert request.resource["service.name"] == "mine"
    assert request.resource["deployment.environment"] == "test"
    assert {headers.get("x-tenant") for headers in receiver.headers} == {"7"}


async def test_what_waits_is_sent_at_the_end(
    receiver: Receiver, engine: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain loses no span."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    async with tracing(receiver, engine) as router:
        await router.chat("hi")
        assert not receiver.spans
    assert len(receiver.spans) == 2


async def test_spans_leave_whenever_it_runs(receiver: Receiver) -> None:
    """Also the second time; before and in between it has no thread."""
    num_threads = threading.active_count()
    it = Tracing(receiver.url, 1.0)
    assert threading.active_count() == num_threads
    for num_spans in (1, 2):
        async with it.running():
            it.tell(Record(total_ms=1), it.begin([]), time.time_ns())
        assert len(receiver.spans) == num_spans
    await eventually(lambda: threading.active_count() == num_threads)


async def test_a_collector_that_is_gone_holds_nobody_up(
    engine: StandInEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that never answers; it is told of once, and the end hardly waits for it."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setattr("serve.tracing.FLUSH_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        for port in (9, silent.getsockname()[1]):
            caplog.clear()
            async with tracing(Receiver(f"http://127.0.0.1:{port}"), engine) as router:
                for _ in range(5):
                    assert (await router.chat("hi")).status_code == 200
                if port == 9:
                    await eventually(lambda: "exporting" in caplog.text)
                began_s = time.monotonic()
            assert time.monotonic() - began_s < 5
            told = [it for it in caplog.records if it.name.startswith("opentelemetry")]
            assert len(told) <= 1


async def test_the_log_names_the_trace(log: Log, receiver: Receiver, engine: StandInEngine) -> None:
    telemetry = TelemetrySettings(access_log=True, otlp_endpoint=receiver.url)
    worker = Worker(log_fd=log.write_fd)
    async with running_router(engine.url, telemetry=telemetry, worker=worker) as router:
        await router.chat("hi")
        line = await log.next()
        request, (leg,) = await arrived(receiver)
    assert line["trace_id"] == request.trace_id
    assert [it["span_id"] for it in line["legs"]] == [leg.id]


def test_missing_packages_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r'pip install "r1-serve\[otel\]"'):
        Tracing("http://127.0.0.1:4318", 1.0)


def test_it_costs_nothing_where_it_is_off() -> None:
    """The packages aren't even imported."""
    code = (
        "import sys; from serve.router import build_app; from serve.settings import *\n"
        "build_app(Settings(router=RouterSettings(engine_urls=['http://127.0.0.1:9'])))\n"
        "assert not [name for name in sys.modules if 'opentelemetry' in name]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=dict(os.environ))


def test_engines_are_told_where_their_spans_go() -> None:
    """vLLM's flag has the whole URL; what the settings say of engines wins."""
    telemetry = TelemetrySettings(otlp_endpoint="http://collector:4318/")
    settings = EngineSettings(model="/m", env={"OTEL_SERVICE_NAME": "mine"}, extra_args=["--x"])
    command = engine_command(traced(settings, telemetry), Machine("cpu", "0.32.0"), port=1)
    assert command.argv[-3:] == ("--otlp-traces-endpoint", "http://collector:4318/v1/traces", "--x")
    assert command.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert command.env["OTEL_SERVICE_NAME"] == "mine"
    assert traced(settings, TelemetrySettings()) == settings
    own = EngineSettings(extra_args=["--otlp-traces-endpoint", "grpc://x"])
    assert traced(own, telemetry) == own


def test_an_environment_that_the_sdk_refuses_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before engines start."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    with pytest.raises(SettingsError, match="the variables OTEL_"):
        Tracing("http://127.0.0.1:9", 1.0)
