"""Admission over HTTP: keys, limits, the line, priorities; what clients and engines are told."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.key_commands import add_key, remove_key
from serve.keys import Key, new_key
from serve.settings import ServerSettings
from tests.faults.support import connect
from tests.support import RunningRouter, eventually, running_router

FAST = {"step_ms": 0.2, "prefill_ms": 0}
HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text("# nobody yet\n")
    return path


def make_key(path: Path, name: str, **fields: Any) -> str:
    key, key_id, digest = new_key()
    add_key(path, name, Key(id=key_id, hash=digest, created="2026-11-30", **fields))
    return key


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def guarded(engine: StandInEngine, keys_file: Path, key: str = "", **router: Any) -> Any:
    """A running router that asks for keys, and a client with `key`."""
    server = ServerSettings(port=0, drain_timeout_s=5, keys_file=str(keys_file))
    return running_router(engine.url, server=server, headers=bearer(key) if key else {}, **router)


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(**FAST)) as engine:
        yield engine


@pytest.fixture
async def slow_engine() -> AsyncIterator[StandInEngine]:
    """It goes on until its client leaves."""
    async with StandInEngine(Options(step_ms=10, think_tokens=20000)) as engine:
        yield engine


async def metric(router: RunningRouter, line: str) -> bool:
    return f"\n{line}\n" in (await router.http.get("/metrics")).text


# --- keys


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/tokenize"),
        ("GET", "/replicas"),
        ("GET", "/v1/models"),
        ("GET", "/v1/presets"),
        ("GET", "/not/there"),
    ],
)
async def test_without_a_key_nothing_is_told(
    engine: StandInEngine, keys_file: Path, method: str, path: str
) -> None:
    """401 in OpenAI's form, for no key and for a wrong one, which is not repeated."""
    async with guarded(engine, keys_file) as router:
        for headers in ({}, bearer("r1-0123456789ab-secret"), {"x-api-key": "secret"}):
            response = await router.http.request(method, path, json=HI, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert "secret" not in response.text
        assert await metric(router, 'r1_rejections_total{reason="invalid_key"} 3.0')
        assert engine.counters.num_requests == 1  # the router's own look at its engine


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/docs", "/openapi.json"])
async def test_probes_metrics_and_docs_need_no_key(
    engine: StandInEngine, keys_file: Path, path: str
) -> None:
    async with guarded(engine, keys_file) as router:
        assert (await router.http.get(path)).status_code == 200


async def test_a_key_is_asked_for_before_the_body_is_read(
    engine: StandInEngine, keys_file: Path
) -> None:
    """The client has declared a body and sent none of it."""
    async with guarded(engine, keys_file) as router:
        host, _, port = router.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()


async def test_the_official_sdk_works_with_a_key_and_raises_its_own_errors(
    engine: StandInEngine, keys_file: Path
) -> None:
    key = make_key(keys_file, "alice", requests_per_minute=1)
    async with guarded(engine, keys_file) as router:
        fields: Any = {"model": "stand-in", **HI}
        base_url = f"{router.url}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            assert (await client.chat.completions.create(**fields)).choices
            with pytest.raises(openai.RateLimitError, match="1 requests per minute"):
                await client.chat.completions.create(**fields)
        async with openai.AsyncOpenAI(base_url=base_url, api_key="no", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(**fields)


async def test_the_sdk_comes_back_when_told(engine: StandInEngine, keys_file: Path) -> None:
    """A debt of 150 tokens at 100 per second: the SDK's first retry, 1.5 s later, is served."""
    key = make_key(keys_file, "alice", tokens_per_minute=6000)
    async with guarded(engine, keys_file) as router:
        account = router.router.keys.holder_of([(b"x-api-key", key.encode())]).account
        async with openai.AsyncOpenAI(
            base_url=f"{router.url}/v1", api_key=key, max_retries=1
        ) as client:
            account.look(time.monotonic())
            account.charge(6150)
            reply = await client.chat.completions.with_raw_response.create(
                model="stand-in", messages=[{"role": "user", "content": "hi"}]
            )
        assert reply.retries_taken == 1


async def test_keys_change_without_a_restart(engine: StandInEngine, keys_file: Path) -> None:
    """A new key works and a revoked one stops within two seconds; on SIGHUP at once."""
    old = make_key(keys_file, "old")
    async with guarded(engine, keys_file) as router:

        async def status(key: str) -> int:
            return (await router.http.get("/v1/models", headers=bearer(key))).status_code

        assert await status(old) == 200
        new = make_key(keys_file, "new")
        remove_key(keys_file, "old")
        async with asyncio.timeout(10):
            while await status(old) == 200:  # noqa: ASYNC110 (there is no event to wait for)
                await asyncio.sleep(0.05)
        assert await status(new) == 200
        remove_key(keys_file, "new")
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)
        assert await status(new) == 401


async def test_what_a_key_asked_in_vain_is_counted_too(
    engine: StandInEngine, keys_file: Path
) -> None:
    """Requests that no reply was made for: not understood, not ready, not whole."""
    key = make_key(keys_file, "alice")
    async with guarded(engine, keys_file, key) as router:
        await router.chat("hi", unknown_field=1)
        for replica in router.router.replicas.replicas:
            replica.health.drain()
        await router.chat("hi")
        _, writer = await connect(router.url)
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
        writer.write(f"{head}authorization: Bearer {key}\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        for outcome in ("invalid", "unavailable", "client_gone"):
            line = f'r1_key_requests_total{{key="alice",outcome="{outcome}"}} 1.0'
            await eventually(lambda line=line: metric(router, line))


async def test_a_key_shows_by_its_name_only(
    engine: StandInEngine, keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In logs, metrics and errors."""
    caplog.set_level(logging.DEBUG)
    key = make_key(keys_file, "alice", max_in_flight=1, requests_per_minute=1)
    async with guarded(engine, keys_file, key) as router:
        replies = [await router.chat("hi"), await router.chat("hi")]
        metrics = (await router.http.get("/metrics")).text
        seen = "".join([metrics, caplog.text, *(reply.text for reply in replies)])
        assert "key=alice" in caplog.text
        assert 'r1_key_requests_total{key="alice",outcome="ok"} 1.0' in metrics
        assert 'r1_key_requests_total{key="alice",outcome="rejected"} 1.0' in metrics
        assert 'r1_rejections_total{reason="key_requests"} 1.0' in metrics
        assert key.split("-", 2)[2] not in seen
        assert key[3:15] not in seen
        assert not any(key.encode() in str(r["headers"]).encode() for r in engine.requests)


# --- limits of keys


async def test_a_keyed_reply_tells_what_is_left(engine: StandInEngine, keys_file: Path) -> None:
    """Streams, whole replies and plain completions; the tokens are the real ones."""
    key = make_key(keys_file, "alice", requests_per_minute=9, tokens_per_minute=100_000)
    async with guarded(engine, keys_file, key) as router:
        first = await router.chat("hi")
        left = int(first.headers["x-ratelimit-remaining-tokens"])
        assert left == int(first.headers["x-ratelimit-limit-tokens"]) == 100_000
        assert first.headers["x-ratelimit-remaining-requests"] == "8"
        second = await router.chat("hi", stream=True)
        spent = first.json()["usage"]["total_tokens"]
        assert abs(left - spent - int(second.headers["x-ratelimit-remaining-tokens"])) <= 9000
        body = {"prompt": "a", "max_tokens": 4}
        third = await router.http.post("/v1/completions", json=body)
        assert third.headers["x-ratelimit-remaining-requests"] == "6"


async def test_tokens_per_minute_refuse_until_the_debt_is_paid(
    engine: StandInEngine, keys_file: Path
) -> None:
    """The reply that ran into debt is served whole; the next is told how long."""
    key = make_key(keys_file, "alice", tokens_per_minute=60)
    async with guarded(engine, keys_file, key) as router:
        spent = (await router.chat("hi")).json()["usage"]["total_tokens"]
        refused = await router.chat("hi")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "60 tokens per minute" in refused.json()["error"]["message"]
        assert spent - 60 - 10 < int(refused.headers["retry-after"]) <= spent - 60 + 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asks", [True, False])
async def test_plain_completions_are_charged_without_a_trace_in_the_reply(
    engine: StandInEngine, keys_file: Path, stream: bool, asks: bool
) -> None:
    """The bytes are the engine's, and the usage event is there for who asked for it only."""
    key = make_key(keys_file, "alice")
    body: dict[str, Any] = {"prompt": "abc", "max_tokens": 6, "stream": stream}
    if asks and stream:
        body["stream_options"] = {"include_usage": True}
    async with guarded(engine, keys_file, key) as router, running_router(engine.url) as plain:
        keyed = (await router.http.post("/v1/completions", json=body)).text
        unkeyed = (await plain.http.post("/v1/completions", json=body)).text
        assert keyed.count("data: ") == unkeyed.count("data: ")
        assert ('"usage":{' in keyed) == (asks or not stream)
        assert await metric(router, 'r1_key_tokens_total{key="alice",kind="answer"} 6.0')


@pytest.mark.parametrize("kind", ["close", "truncated", "reset"])
async def test_a_keyed_completion_goes_elsewhere_until_its_first_event(
    keys_file: Path, kind: Any
) -> None:
    """What the failed engine sent of an event is forgotten, and not charged."""
    key = make_key(keys_file, "alice")
    async with (
        StandInEngine(Options(**FAST)) as first,
        StandInEngine(Options(**FAST)) as second,
        running_router(
            *(first.url, second.url),
            server=ServerSettings(port=0, drain_timeout_s=5, keys_file=str(keys_file)),
            headers=bearer(key),
            balancing="round_robin",
        ) as router,
    ):
        first.arm(Fault(kind, after=0))
        body = {"prompt": "abc", "max_tokens": 6, "stream": True}
        for _ in range(2):
            text = (await router.http.post("/v1/completions", json=body)).text
            assert text.endswith("data: [DONE]\n\n")
            assert "error" not in text
        assert await metric(router, 'r1_key_tokens_total{key="alice",kind="answer"} 12.0')


async def test_a_cut_completion_is_charged_for_what_came(
    slow_engine: StandInEngine, keys_file: Path
) -> None:
    key = make_key(keys_file, "alice")
    async with guarded(slow_engine, keys_file, key) as router:
        body = {"prompt": "abc", "max_tokens": 9999, "stream": True}
        request = asyncio.create_task(router.http.post("/v1/completions", json=body))
        await eventually(lambda: slow_engine.generation_tokens > 5)
        request.cancel()
        await eventually(lambda: router.router.gate.num_in_flight == 0)
        assert await metric(router, 'r1_key_requests_total{key="alice",outcome="client_gone"} 1.0')
        assert not await metric(router, 'r1_key_tokens_total{key="alice",kind="answer"} 0.0')


async def test_one_keys_limit_on_open_requests_leaves_others_alone(
    slow_engine: StandInEngine, keys_file: Path
) -> None:
    key, other = make_key(keys_file, "a", max_in_flight=1), make_key(keys_file, "b")
    async with guarded(slow_engine, keys_file, key) as router:
        open_one = asyncio.create_task(router.chat("hi"))
        await eventually(lambda: len(slow_engine.running) == 1)
        refused = await router.chat("hi")
        assert refused.status_code == 429
        assert "`a` has 1 requests open" in refused.json()["error"]["message"]
        post = router.http.post("/v1/chat/completions", json=HI, headers=bearer(other))
        second = asyncio.create_task(post)
        await eventually(lambda: len(slow_engine.running) == 2)
        for task in (open_one, second):
            task.cancel()
        await eventually(lambda: router.router.gate.num_in_flight == 0)
        third = asyncio.create_task(router.chat("hi"))
        await eventually(lambda: len(slow_engine.running) == 1)
        third.cancel()


# --- the line


async def test_who_finds_no_slot_waits_for_one() -> None:
    """Thirty at once through two slots: all are served, two at a time."""
    async with (
        StandInEngine(Options(step_ms=1, prefill_ms=0, think_tokens=5, answer_tokens=5)) as engine,
        running_router(engine.url, max_in_flight=2) as router,
    ):
        replies = asyncio.gather(*(router.chat("hi") for _ in range(30)))
        await eventually(lambda: router.router.gate.num_queued > 0)
        assert [reply.status_code for reply in await replies] == [200] * 30
        text = (await router.http.get("/metrics")).text
        assert "r1_queue_depth 0.0" in text
        assert 'r1_queue_seconds_count{class="interactive"} 30.0' in text


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_leaves_the_line(
    slow_engine: StandInEngine, stream: bool
) -> None:
    async with running_router(slow_engine.url, max_in_flight=1) as router:
        first = asyncio.create_task(router.chat("hi"))
        await eventually(lambda: len(slow_engine.running) == 1)
        waiting = [asyncio.create_task(router.chat("hi", stream=stream)) for _ in range(3)]
        await eventually(lambda: router.router.gate.num_queued == 3)
        assert await metric(router, "r1_queue_depth 3.0")
        for task in waiting:
            task.cancel()
        await eventually(lambda: router.router.gate.num_queued == 0)
        assert slow_engine.counters.num_requests == 2  # the router's own look, and the first
        first.cancel()
        await eventually(lambda: router.router.gate.num_in_flight == 0)


async def test_waiting_too_long_is_a_429_that_says_when_to_come_back(
    slow_engine: StandInEngine,
) -> None:
    """Both headers: whole seconds, and the milliseconds that OpenAI's SDK reads first."""
    async with running_router(slow_engine.url, max_in_flight=1, queue_timeout_s=0.1) as router:
        first = asyncio.create_task(router.chat("hi", stream=True))
        await eventually(lambda: len(slow_engine.running) == 1)
        refused = await router.chat("hi", stream=True)
        assert refused.status_code == 429
        assert "no room within 0.1 s" in refused.json()["error"]["message"]
        seconds, ms = (int(refused.headers[name]) for name in ("retry-after", "retry-after-ms"))
        assert 0 <= seconds * 1000 - ms < 1000
        assert await metric(router, 'r1_rejections_total{reason="queue_timeout"} 1.0')
        first.cancel()


async def test_interactive_requests_run_before_batch(keys_file: Path) -> None:
    """By `service_tier: "flex"`, by the key's class and by `priority`; the engine is told too."""
    interactive = make_key(keys_file, "person")
    batch = make_key(keys_file, "nightly", priority_class="batch")
    async with (
        StandInEngine(Options(step_ms=2, prefill_ms=0, think_tokens=9)) as engine,
        guarded(engine, keys_file, max_in_flight=1) as router,
    ):
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("first", interactive, {}),
            ("flex", interactive, {"service_tier": "flex"}),
            ("nightly", batch, {"priority": -3}),
            ("urgent?", interactive, {"priority": -9}),
            ("person", interactive, {}),
            ("five", interactive, {"priority": 5}),
        ]
        tasks, gate = [], router.router.gate
        engine.wedge()
        for number, (name, key, fields) in enumerate(asked):
            chat = router.http.post(
                "/v1/chat/completions",
                json={"messages": [{"role": "user", "content": name}], **fields},
                headers=bearer(key),
            )
            tasks.append(asyncio.create_task(chat))
            await eventually(lambda n=number: gate.num_in_flight + gate.num_queued == n + 1)
        engine.wedge(False)
        await asyncio.gather(*tasks)
        bodies = [request["body"] for request in list(engine.requests)[-6:]]
        assert [(body["messages"][0]["content"], body.get("priority", 0)) for body in bodies] == [
            ("first", 0),
            ("urgent?", 0),
            ("person", 0),
            ("five", 5),
            ("flex", 10),
            ("nightly", 10),
        ]
        assert not any("service_tier" in body for body in bodies)


async def test_without_keys_a_priority_is_passed_on_as_it_is(engine: StandInEngine) -> None:
    async with running_router(engine.url) as router:
        await router.chat("hi", priority=-4)
        assert engine.requests[-1]["body"]["priority"] == -4
        await router.http.post(
            "/v1/completions", json={"prompt": "a", "service_tier": "flex", "max_tokens": 1}
        )
        assert engine.requests[-1]["body"]["priority"] == 10
        assert (await router.chat("hi", priority=2**63)).status_code == 400
