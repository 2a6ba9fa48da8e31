"""The running router over the stand-in engine, used by Anthropic's official SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.key_commands import add_key
from serve.keys import Key, new_key
from serve.messages_content import SIGNATURE
from serve.settings import ServerSettings
from tests.support import RunningRouter, eventually, running_router

HI = {"role": "user", "content": "hi"}
TRACE, ANSWER = "First 2 + 2 < 5.\nThat is 4 🙂.", "It is \\boxed{4}, so <b>4</b>."
SCRIPT = {"think": f"{TRACE}\n", "answer": f"\n\n{ANSWER}"}
FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}
TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}


def scripted(**script: Any) -> str:
    return "script:" + json.dumps({**SCRIPT, **script})


@pytest.fixture(params=["split", "raw"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(mode=request.param, **FAST)) as engine:
        yield engine


@pytest.fixture
async def router(engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


@pytest.fixture
async def client(router: RunningRouter) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with sdk(router) as client:
        yield client


def sdk(router: RunningRouter, api_key: str = "none") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=router.url, api_key=api_key, max_retries=0)


def question(content: str | None = None, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content or scripted()}]
    return {"model": "stand-in", "max_tokens": 2048, "messages": messages, **fields}


def said(message: Any) -> list[tuple[str, str]]:
    return [(block.type, getattr(block, block.type)) for block in message.content]


BOTH = [("thinking", TRACE), ("text", ANSWER)]


async def test_a_whole_message(client: anthropic.AsyncAnthropic) -> None:
    """Blocks, stop reason, usage, `r1`, and the request id where the SDK looks for it."""
    message: Any = await client.messages.create(**question())
    assert said(message) == BOTH
    assert (message.type, message.role, message.model) == ("message", "assistant", "stand-in")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.id.startswith("msg_")
    assert message._request_id == message.id
    details = message.usage.output_tokens_details
    assert 0 < details.thinking_tokens < message.usage.output_tokens
    assert message.r1["preset"] == "chat"


async def test_a_stream_says_what_the_whole_message_says(
    client: anthropic.AsyncAnthropic,
) -> None:
    """By the SDK's helper: typed events in order, text as it comes, the same final message."""
    whole: Any = await client.messages.create(**question())
    kinds: list[str] = []
    async with client.messages.stream(**question()) as stream:
        async for event in stream:
            if not kinds or kinds[-1] != event.type:
                kinds.append(event.type)
        final: Any = await stream.get_final_message()
    assert said(final) == said(whole)
    assert final.usage == whole.usage
    assert final.content[0].signature == SIGNATURE
    assert (final.stop_reason, final.stop_sequence) == ("end_turn", None)
    assert [kind for kind in kinds if kind.startswith(("message", "content_block_st"))] == [
        "message_start",
        *["content_block_start", "content_block_stop"] * 2,
        "message_delta",
        "message_stop",
    ]
    async with client.messages.stream(**question()) as stream:
        assert "".join([text async for text in stream.text_stream]) == ANSWER


async def test_the_prompt_is_counted_at_the_start_of_a_stream(
    client: anthropic.AsyncAnthropic,
) -> None:
    whole = await client.messages.create(**question())
    stream = await client.messages.create(**question(), stream=True)
    events: list[Any] = [event async for event in stream]
    assert events[0].message.usage.input_tokens == whole.usage.input_tokens
    assert events[-2].r1["preset"] == "chat"


async def test_a_reply_can_be_sent_back(
    engine: StandInEngine, client: anthropic.AsyncAnthropic
) -> None:
    """As the SDK's guides do it, from a whole message and from a stream: thinking is dropped."""
    whole = await client.messages.create(**question())
    async with client.messages.stream(**question()) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        turns: Any = [HI, {"role": "assistant", "content": message.content}, HI]
        await client.messages.create(**question(messages=turns))
        sent = engine.requests[-1]["body"]["messages"]
        assert sent == [HI, {"role": "assistant", "content": ANSWER}, HI]


@pytest.mark.parametrize("stream", [True, False])
async def test_thinking_that_is_disabled_or_left_out(
    client: anthropic.AsyncAnthropic, stream: bool
) -> None:
    """Disabled: a budget of 0 and no thinking blocks; left out: only the latter."""
    for thinking in ({"type": "disabled"}, {"type": "adaptive", "display": "omitted"}):
        message: Any = await told(client, stream, **question(thinking=thinking))
        assert [block.type for block in message.content] == ["text"]
    asked = question(thinking={"type": "disabled"}, max_tokens=500)
    message = await client.messages.create(**asked)
    assert message.r1["thinking_token_budget"] == 0


async def told(client: anthropic.AsyncAnthropic, stream: bool, **asked: Any) -> Any:
    if not stream:
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [True, False])
async def test_stop_sequences_end_the_answer(
    client: anthropic.AsyncAnthropic, stream: bool
) -> None:
    message = await told(client, stream, **question(stop_sequences=["4}"]))
    assert said(message) == [("thinking", TRACE), ("text", "It is \\boxed{")]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "4}")


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_of_tools(client: anthropic.AsyncAnthropic, stream: bool) -> None:
    """Two in one message, their arguments in pieces."""
    deltas: list[dict[str, Any]] = []
    for index in range(2):
        function = {"name": "add", "arguments": ""}
        deltas.append({"index": index, "id": f"c{index}", "type": "function", "function": function})
        deltas += [
            {"index": index, "function": {"arguments": piece}} for piece in ('{"a"', f": {index}}}")
        ]
    chunks = ["x", "</think>", *({"tool_calls": [delta]} for delta in deltas)]
    content = "script:" + json.dumps({"chunks": chunks, "finish_reason": "tool_calls"})
    message = await told(client, stream, **question(content, tools=[TOOL]))
    assert message.stop_reason == "tool_use"
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(block.id, block.name, block.input) for block in calls] == [
        ("c0", "add", {"a": 0}),
        ("c1", "add", {"a": 1}),
    ]


async def test_extras_and_presets(engine: StandInEngine, client: anthropic.AsyncAnthropic) -> None:
    """By the model's name, and in `extra_body` with vLLM's sampling fields."""
    message: Any = await client.messages.create(**question(model="stand-in:math"))
    assert message.r1["preset"] == "math"
    extra = {"preset": "math", "min_p": 0.1, "seed": 3, "service_tier": "flex"}
    await client.messages.create(**question("1+1", extra_body=extra))
    body = engine.requests[-1]["body"]
    assert (body["min_p"], body["seed"], body["temperature"]) == (0.1, 3, 0.6)
    assert body["priority"] == 10
    assert body["messages"][-1]["content"].endswith("within \\boxed{}.")


def budget(tokens: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": tokens}


@pytest.mark.parametrize("stream", [True, False])
async def test_thinking_over_its_budget_comes_to_an_answer(
    client: anthropic.AsyncAnthropic, stream: bool
) -> None:
    """The budget holds, and a trace that runs into `max_tokens` is closed: `r1` says so."""
    message = await told(client, stream, **question(thinking=budget(8)))
    assert message.usage.output_tokens_details.thinking_tokens <= 8
    assert message.content[-1].type == "text"


@pytest.mark.parametrize("stream", [True, False])
async def test_recovery_is_told(client: anthropic.AsyncAnthropic, stream: bool) -> None:
    """The model stops while it thinks."""
    asked = question(scripted(gives_up_after=6))
    if stream:
        events: list[Any] = [e async for e in await client.messages.create(**asked, stream=True)]
        note = events[-2].r1
    else:
        message: Any = await client.messages.create(**asked)
        assert message.content[-1].type == "text"
        note = message.r1
    assert note["recovered"] == "eos"


async def test_votes(router: RunningRouter, client: anthropic.AsyncAnthropic) -> None:
    """The SDK passes over the comments that tell how the vote stands."""
    choices = [{"think": "t\n", "answer": f"\n\n\\boxed{{{i % 2}}}"} for i in range(3)]
    content = "script:" + json.dumps({"choices": choices})
    asked = question(content, extra_body={"votes": 3, "preset": "math", "seed": 0})
    for stream in (True, False):
        message = await told(client, stream, **asked)
        assert said(message) == [("thinking", "t"), ("text", "\\boxed{0}")]
    body = question(content, votes=3, preset="math", seed=0, stream=True)
    raw = (await router.http.post("/v1/messages", json=body)).text
    assert raw.startswith(": r1.votes")


async def test_a_stream_goes_on_on_another_engine() -> None:
    """At every tenth token: the same message, one start, and `r1` tells."""
    async with (
        StandInEngine(Options(**FAST)) as alone,
        running_router(alone.url) as router,
        sdk(router) as client,
    ):
        whole = await client.messages.create(**question())
    for after in range(1, whole.usage.output_tokens, 10):
        async with (
            StandInEngine(Options(**FAST)) as first,
            StandInEngine(Options(**FAST)) as second,
            running_router(first.url, second.url, balancing="round_robin") as router,
            sdk(router) as client,
        ):
            first.arm(Fault("reset", after=after))
            events: list[Any] = []
            async with client.messages.stream(**question()) as stream:
                async for event in stream:
                    events.append(event)
                message = await stream.get_final_message()
            assert said(message) == BOTH, after
            assert message.usage == whole.usage
            assert [e.type for e in events].count("message_start") == 1
            (last,) = [e for e in events if e.type == "message_delta"]
            if second.counters.num_requests:
                assert last.r1["failovers"] == 1


async def test_a_stream_that_breaks_ends_with_an_error_event(
    engine: StandInEngine, router: RunningRouter, client: anthropic.AsyncAnthropic
) -> None:
    """The SDK raises it; nothing is left behind."""
    asked = question(scripted(fault={"kind": "reset", "after": 3}))
    with pytest.raises(anthropic.APIStatusError) as caught:
        async for _ in await client.messages.create(**asked, stream=True):
            pass
    assert caught.value.type == "api_error"
    await eventually(lambda: not engine.running and router.router.gate.num_in_flight == 0)
    raw = (await router.http.post("/v1/messages", json=asked | {"stream": True})).text
    assert raw.count("event: error\n") == 1
    assert "message_stop" not in raw


@pytest.mark.parametrize(
    ("fields", "error", "kind", "says"),
    [
        (
            {"extra_body": {"presett": "math"}},
            anthropic.BadRequestError,
            "invalid_request_error",
            "did you mean `preset`",
        ),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "is empty"),
        ({"max_tokens": 10**9}, anthropic.BadRequestError, "invalid_request_error", "context"),
        ({"model": "claude"}, anthropic.NotFoundError, "not_found_error", "served here"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_errors_are_the_sdks_own(
    client: anthropic.AsyncAnthropic,
    fields: dict[str, Any],
    error: type[anthropic.APIStatusError],
    kind: str,
    says: str,
    stream: bool,
) -> None:
    with pytest.raises(error, match=says) as caught:
        await client.messages.create(**question(**fields), stream=stream, timeout=60)
    assert caught.value.type == kind


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [("status", 502, "api_error"), ("never", 504, "timeout_error")],
)
async def test_an_engine_that_fails(kind: Any, status: int, error: str) -> None:
    async with (
        StandInEngine(Options(**FAST)) as engine,
        running_router(engine.url, idle_timeout_s=1) as router,
        sdk(router) as client,
    ):
        with pytest.raises(anthropic.InternalServerError) as caught:
            await client.messages.create(**question(scripted(fault={"kind": kind})))
        assert (caught.value.status_code, caught.value.type) == (status, error)


async def test_a_full_router_and_none_that_serves() -> None:
    """429 and 503, with the time to come back."""
    async with (
        StandInEngine(Options(step_ms=20, think_tokens=500)) as engine,
        running_router(engine.url, max_in_flight=1, max_queued=0) as router,
        sdk(router) as client,
    ):
        stream = await client.messages.create(**question("hi"), stream=True)
        with pytest.raises(anthropic.RateLimitError) as limited:
            await client.messages.create(**question("hi"))
        assert limited.value.type == "rate_limit_error"
        assert int(limited.value.response.headers["retry-after"]) >= 1
        await stream.close()
    async with (
        running_router("http://127.0.0.1:9", wait_ready=False) as router,
        sdk(router) as client,
    ):
        with pytest.raises(anthropic.InternalServerError) as none:
            await client.messages.create(**question("hi"))
        assert (none.value.status_code, none.value.type) == (503, "overloaded_error")
        assert int(none.value.response.headers["retry-after"]) >= 1


async def test_keys_and_errors_outside_the_handlers(tmp_path: Path) -> None:
    """The SDK sends its key as `x-api-key`. Wrong keys, methods, paths and bodies are answered in
    Anthropic's form on these paths only."""
    path = tmp_path / "keys.toml"
    secret, key_id, key_hash = new_key()
    add_key(path, "alice", Key(id=key_id, hash=key_hash, created="2026-10-23"))
    server = ServerSettings(port=0, keys_file=str(path), max_body_bytes=1000)
    headers = {"x-api-key": secret}
    async with (
        StandInEngine(Options(**FAST)) as engine,
        running_router(engine.url, server=server, headers=headers) as router,
        sdk(router, "wrong") as stranger,
        sdk(router, secret) as client,
    ):
        await client.messages.create(**question("hi"))
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await stranger.messages.create(**question("hi"))
        assert refused.value.type == "authentication_error"
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.count_tokens(model="stand-in", messages=[HI])
        with pytest.raises(anthropic.ContentTooLargeError) as large:
            await client.messages.create(**question("hi" * 1000))
        assert large.value.type == "request_too_large"
        for method, where, status, kind in [
            ("GET", "/v1/messages", 405, "invalid_request_error"),
            ("POST", "/v1/messages/batches", 404, "not_found_error"),
            ("POST", "/v1/messages", 400, "invalid_request_error"),
        ]:
            response = await router.http.request(method, where, content=b"{")
            assert response.status_code == status
            assert response.json()["error"]["type"] == kind
        response = await router.http.post("/v1/chat/completions", content=b"{")
        assert response.json()["error"]["code"] == "malformed_json"


async def test_counting_tokens(engine: StandInEngine, client: anthropic.AsyncAnthropic) -> None:
    """As many as the request has; the preset's instruction counts."""
    asked: Any = {"model": "stand-in", "messages": [HI], "system": "Be kind."}
    counted = await client.messages.count_tokens(**asked)
    message = await client.messages.create(**asked, max_tokens=50)
    assert counted.input_tokens == message.usage.input_tokens
    math = await client.messages.count_tokens(**asked | {"model": "stand-in:math"})
    assert math.input_tokens > counted.input_tokens
    with pytest.raises(anthropic.BadRequestError, match="did you mean `messages`"):
        await client.messages.count_tokens(**asked, extra_body={"message": []})
    await engine.stop()
    with pytest.raises(anthropic.InternalServerError):
        await client.messages.count_tokens(**asked)


async def test_messages_are_counted_under_their_route(
    router: RunningRouter, client: anthropic.AsyncAnthropic
) -> None:
    await client.messages.create(**question())
    text = (await router.http.get("/metrics")).text
    assert 'r1_requests_total{outcome="ok",preset="chat",route="/v1/messages"} 1.0' in text
