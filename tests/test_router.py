"""The running router over the stand-in engine: replies, streams, refusals, faults, disconnects."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve.settings import ServerSettings
from tests.support import RunningRouter, eventually, running_router

FAST = {"step_ms": 0.2, "prefill_ms": 0}
TRACE, ANSWER = "First 2 + 2.\nThat is 4.", "The answer is \\boxed{4}."
SCRIPT = {"think": f"{TRACE}\n", "answer": f"\n\n{ANSWER}"}


def scripted(**script: Any) -> str:
    """A user message that tells the stand-in what to say."""
    return "script:" + json.dumps({**SCRIPT, **script})


@pytest.fixture(params=["split", "raw"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(mode=request.param, **FAST)) as engine:
        yield engine


@pytest.fixture
async def router(engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


def text_of(events: list[Any], field: str) -> str:
    deltas = [c["delta"] for e in events if e != "[DONE]" for c in e["choices"]]
    return "".join(delta.get(field) or "" for delta in deltas)


async def test_a_whole_reply_has_its_trace_split_out(router: RunningRouter) -> None:
    """Both reasoning fields, the answer, exact usage, and what was applied."""
    reply = (await router.chat(scripted())).json()
    message = reply["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == TRACE
    assert message["content"] == ANSWER
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
    assert reply["r1"] == {
        "preset": "chat",
        "thinking_token_budget": 8192,
        "budget_source": "preset",
    }


async def test_a_stream_says_what_the_whole_reply_says(router: RunningRouter) -> None:
    """Same text, same usage; one id; thinking and answer never in one delta."""
    whole = (await router.chat(scripted())).json()
    events = await router.stream(scripted(), stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    chunks = [event for event in events if isinstance(event, dict)]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert text_of(events, "reasoning_content") == text_of(events, "reasoning") == TRACE
    assert text_of(events, "content") == ANSWER
    for chunk in chunks[:-1]:
        delta = chunk["choices"][0]["delta"]
        assert not (delta.get("content") and delta.get("reasoning"))
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole["usage"]


async def test_usage_comes_only_when_asked_for(router: RunningRouter) -> None:
    events = await router.stream(scripted())
    assert not any("usage" in event for event in events if isinstance(event, dict))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("reasoning_format", "reasoning", "content"),
    [
        ("parsed", TRACE, ANSWER),
        ("hidden", "", ANSWER),
        ("raw", "", f"<think>\n{TRACE}\n</think>\n\n{ANSWER}"),
    ],
)
async def test_reasoning_formats(
    router: RunningRouter, stream: bool, reasoning_format: str, reasoning: str, content: str
) -> None:
    """parsed, hidden and raw, the same from engines that split and engines that don't."""
    if stream:
        events = await router.stream(scripted(), reasoning_format=reasoning_format)
        got = text_of(events, "reasoning"), text_of(events, "content")
    else:
        reply = (await router.chat(scripted(), reasoning_format=reasoning_format)).json()
        message = reply["choices"][0]["message"]
        got = message["reasoning"] or "", message["content"] or ""
    assert got == (reasoning, content)


@pytest.mark.parametrize(
    ("script", "reasoning", "content", "finish_reason"),
    [
        ({"think": "\n", "answer": "\n\nHello!"}, None, "Hello!", "stop"),
        ({"think": None, "answer": "no end of think"}, None, None, "stop"),
        ({"think": "<think>\nagain\n"}, "again", ANSWER, "stop"),
        ({"answer": "see `<think>` and `</think>`"}, TRACE, "see `<think>` and `</think>`", "stop"),
        ({"think": "思考 😀\n", "answer": "\n\n答案 😀"}, "思考 😀", "答案 😀", "stop"),
    ],
)
async def test_odd_outputs(
    engine: StandInEngine,
    router: RunningRouter,
    script: dict[str, Any],
    reasoning: str | None,
    content: str | None,
    finish_reason: str,
) -> None:
    """Empty traces, traces that never close, quoted tags, characters of several bytes."""
    if script["think"] is None if "think" in script else False:
        reasoning, content = ("no end of think", None)
    choice = (await router.chat(scripted(**script), recover=False)).json()["choices"][0]
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == (reasoning, content)
    assert choice["finish_reason"] == finish_reason


async def test_a_trace_cut_off_by_the_limit(router: RunningRouter) -> None:
    """Where no recovery is wanted: finish_reason is kept, all that came is trace, and every token
    of it counts."""
    reply = (await router.chat(scripted(), max_tokens=5, recover=False)).json()
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "length"
    assert TRACE.startswith(choice["message"]["reasoning"])
    assert choice["message"]["content"] is None
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


@pytest.mark.parametrize("stream", [True, False])
async def test_several_choices_are_kept_apart(router: RunningRouter, stream: bool) -> None:
    """n = 3: each choice has its own trace and answer, usage counts all."""
    choices = [{"think": f"t{i}\n", "answer": f"\n\na{i}"} for i in range(3)]
    text = "script:" + json.dumps({"choices": choices})
    if not stream:
        reply = (await router.chat(text, n=3, seed=0)).json()
        got = [(c["message"]["reasoning"], c["message"]["content"]) for c in reply["choices"]]
    else:
        events = await router.stream(text, n=3, seed=0)
        parts: list[list[str]] = [["", ""] for _ in range(3)]
        for event in events:
            for choice in event["choices"] if isinstance(event, dict) else []:
                parts[choice["index"]][0] += choice["delta"].get("reasoning") or ""
                parts[choice["index"]][1] += choice["delta"].get("content") or ""
        got = [(trace, answer) for trace, answer in parts]
    assert got == [("t0", "a0"), ("t1", "a1"), ("t2", "a2")]


async def test_presets_reach_the_engine(engine: StandInEngine, router: RunningRouter) -> None:
    """By the model's name and by the body; the instruction stands in the user turn."""
    for fields in ({"model": "stand-in:math"}, {"preset": "math"}):
        response = await router.chat("1+1", **fields)
        assert response.headers["x-r1-preset"] == "math"
        body = engine.requests[-1]["body"]
        assert body["temperature"] == 0.6
        assert body["messages"][0]["content"].endswith("within \\boxed{}.")


async def test_token_ids_come_when_asked_for(router: RunningRouter) -> None:
    reply = (await router.chat(scripted(), return_token_ids=True)).json()
    assert len(reply["choices"][0]["token_ids"]) == reply["usage"]["completion_tokens"]
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]
    events = await router.stream(scripted(), return_token_ids=True)
    ids = [i for e in events[:-1] for c in e["choices"] for i in c.get("token_ids", [])]
    assert ids == reply["choices"][0]["token_ids"]
    assert "token_ids" not in (await router.chat(scripted())).text


async def test_tool_calls_pass_through(router: RunningRouter) -> None:
    """Deltas of one call are passed on in a stream and put together in a whole reply."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": part}} for part in ('{"a"', ":1}")]
    chunks = ["x", "</think>", *({"tool_calls": [delta]} for delta in (call, *more))]
    text = "script:" + json.dumps({"chunks": chunks, "finish_reason": "tool_calls"})
    choice = (await router.chat(text)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    deltas = [
        choice["delta"]["tool_calls"][0]
        for event in await router.stream(text)
        if isinstance(event, dict)
        for choice in event["choices"]
        if choice["delta"].get("tool_calls")
    ]
    assert deltas == [call, *more]


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_bytes_may_arrive_in_any_pieces(router: RunningRouter, size: int) -> None:
    """HTTP chunks of a few bytes: events, tags and characters split anywhere."""
    text = scripted(think="思考 <\n", answer="\n\n😀", fault={"kind": "fragment", "size": size})
    events = await router.stream(text)
    assert (text_of(events, "reasoning"), text_of(events, "content")) == ("思考 <", "😀")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_string_ends_the_answer_and_the_generation(
    engine: StandInEngine, router: RunningRouter, stream: bool
) -> None:
    """It is found in the answer only, across chunks; the engine is not kept busy after it."""
    text = scripted(think="the end\n", answer="\n\nabc the end " + "x" * 3000)
    fields: dict[str, Any] = {"stop": ["the end"], "stream_options": {"include_usage": True}}
    if stream:
        events = await router.stream(text, **fields)
        got = text_of(events, "reasoning"), text_of(events, "content")
        finish, usage = events[-3]["choices"][0], events[-2]["usage"]
    else:
        reply = (await router.chat(text, **fields)).json()
        finish, usage = reply["choices"][0], reply["usage"]
        got = finish["message"]["reasoning"], finish["message"]["content"]
    assert got == ("the end", "abc ")
    assert (finish["finish_reason"], finish["stop_reason"]) == ("stop", "the end")
    assert usage["completion_tokens"] < 200
    await no_trace_left(engine, router)


async def test_connections_to_the_engine_are_kept(router: RunningRouter) -> None:
    """Streams, whole replies, stop strings that don't come: none costs a connection of its own."""
    client = router.router.replicas.replicas[0].client
    before = client.num_opened
    for _ in range(5):
        for fields in ({}, {"stream": True}, {"stop": ["no"]}, {"stop": ["no"], "stream": True}):
            await router.chat(scripted(), **fields)
    assert client.num_opened - before <= 2


async def test_completions_pass_through(router: RunningRouter) -> None:
    """Plain completions come as the engine made them, whole and as a stream."""
    whole = await router.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 4})
    assert whole.json()["object"] == "text_completion"
    assert whole.json()["usage"]["completion_tokens"] == 4
    streamed = await router.http.post(
        "/v1/completions", json={"prompt": "a", "max_tokens": 4, "stream": True}
    )
    assert streamed.text.rstrip().endswith("data: [DONE]")
    refused = await router.http.post("/v1/completions", json={"prompt": "a", "preset": "math"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "preset"


async def test_tokenize_counts_what_would_be_sent(router: RunningRouter) -> None:
    """The preset's instruction is part of the prompt, so it is part of the count."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    plain = (await router.http.post("/tokenize", json=body)).json()
    math = (await router.http.post("/tokenize", json=body | {"model": "stand-in:math"})).json()
    assert math["count"] > plain["count"] > 0


async def test_models_and_presets_are_listed(router: RunningRouter) -> None:
    models = (await router.http.get("/v1/models")).json()["data"]
    assert models[0]["id"] == "stand-in"
    assert "stand-in:math" in [model["id"] for model in models]
    assert (await router.http.get("/v1/models/stand-in:math")).json()["id"] == "stand-in:math"
    assert (await router.http.get("/v1/models/other")).status_code == 404
    presets = (await router.http.get("/v1/presets")).json()
    assert presets["default"] == "chat"
    assert {"id", "description", "source", "temperature"} <= presets["data"][0].keys()


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", {"model": "gpt-5"}, 404, "model"),
        ("/v1/chat/completions", {"model": "stand-in:maths"}, 400, "preset"),
        ("/v1/chat/completions", {"preset": "maths"}, 400, "preset"),
        ("/v1/chat/completions", {"temperatur": 1}, 400, "temperatur"),
        ("/v1/chat/completions", {"max_tokens": 10**9}, 400, "max_tokens"),
        ("/v1/chat/completion", {}, 404, None),
        ("/v1/embeddings", {}, 404, None),
    ],
)
async def test_refusals_are_openai_shaped(
    router: RunningRouter, path: str, fields: dict[str, Any], status: int, param: str | None
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    response = await router.http.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


async def test_a_wrong_method_is_405(router: RunningRouter) -> None:
    response = await router.http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"


async def test_a_prompt_that_is_too_long_says_by_how_much() -> None:
    async with (
        StandInEngine(Options(max_model_len=100, **FAST)) as engine,
        running_router(engine.url) as router,
    ):
        response = await router.chat("x" * 500)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        count = (
            await router.http.post(
                "/tokenize", json={"messages": [{"role": "user", "content": "x" * 500}]}
            )
        ).json()["count"]
        assert f"{count} tokens, {count - 100 + 1} too many" in error["message"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_oversized_body_is_refused(chunked: bool) -> None:
    """By its declared length before it is read, and by its real one while it is."""
    async with (
        StandInEngine(Options(**FAST)) as engine,
        running_router(engine.url, server=ServerSettings(port=0, max_body_bytes=1000)) as router,
    ):

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"x" * 100

        content: Any = pieces() if chunked else b"x" * 3000
        response = await router.http.post("/v1/chat/completions", content=content)
        assert response.status_code == 413
        assert "1000 bytes" in response.json()["error"]["message"]


async def test_before_an_engine_is_ready_clients_are_told_when_to_come_back() -> None:
    """503 with Retry-After; alive but not ready."""
    async with running_router("http://127.0.0.1:9", wait_ready=False) as router:
        response = await router.chat("hi")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert (await router.http.get("/health")).status_code == 200
        assert (await router.http.get("/ready")).status_code == 503
        assert (await router.http.get("/v1/models")).json()["data"] == []


async def test_who_asks_as_soon_as_the_router_listens_is_served() -> None:
    """It looks at its engines first; one that can't be reached doesn't keep it from listening."""
    async with (
        StandInEngine(Options(**FAST)) as engine,
        running_router(engine.url, "http://127.0.0.1:9", wait_ready=False) as router,
    ):
        assert (await router.chat("hi")).status_code == 200


async def test_an_engine_that_comes_back_is_taken_up_again() -> None:
    async with StandInEngine(Options(**FAST)) as engine, running_router(engine.url) as router:
        await engine.stop()
        await eventually(lambda: not router.router.replicas.ready)
        assert (await router.chat("hi")).status_code == 503
        await engine.start()
        await eventually(lambda: len(router.router.replicas.ready) == 1)
        assert (await router.chat("hi")).status_code == 200


async def test_an_unreachable_replica_costs_no_request() -> None:
    """The dead one is put out of rotation and the next one serves, before any probe saw it."""
    async with (
        StandInEngine(Options(**FAST)) as dead,
        StandInEngine(Options(**FAST)) as alive,
        running_router(dead.url, alive.url) as router,
    ):
        await dead.stop()
        assert [(await router.chat("hi")).status_code for _ in range(4)] == [200] * 4


async def test_requests_go_to_the_least_busy_replica() -> None:
    async with (
        StandInEngine(Options(step_ms=5)) as first,
        StandInEngine(Options(step_ms=5)) as second,
        running_router(first.url, second.url, balancing="least_loaded") as router,
    ):
        before = first.counters.num_requests, second.counters.num_requests
        first.wedge()
        second.wedge()
        chats = [router.chat("hi", max_tokens=20, recover=False) for _ in range(8)]
        replies = asyncio.gather(*chats)
        await eventually(lambda: len(first.running) + len(second.running) == 8)
        first.wedge(False)
        second.wedge(False)
        await replies
        after = first.counters.num_requests, second.counters.num_requests
        assert [b - a for a, b in zip(before, after, strict=True)] == [4, 4]


@pytest.mark.parametrize("kind", ["close", "reset", "garbage", "truncated", "error"])
async def test_a_stream_that_breaks_ends_with_one_error_event(
    engine: StandInEngine, router: RunningRouter, kind: str
) -> None:
    """What came before stays, then one error event and the end; nothing is left in flight."""
    events = await router.stream(scripted(fault={"kind": kind, "after": 3}))
    assert events[-1] != "[DONE]"
    errors = [event for event in events if isinstance(event, dict) and "error" in event]
    assert errors == [events[-1]]
    assert errors[0]["error"]["code"] == "engine_error"
    assert text_of(events[:-1], "reasoning")
    await no_trace_left(engine, router)


@pytest.mark.parametrize("kind", ["close", "reset", "garbage", "truncated", "error"])
async def test_a_whole_reply_that_breaks_is_a_502(
    engine: StandInEngine, router: RunningRouter, kind: str
) -> None:
    response = await router.chat(scripted(fault={"kind": kind, "after": 3}))
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "server_error"
    await no_trace_left(engine, router)


@pytest.mark.parametrize(("status", "ours"), [(500, 502), (503, 503), (400, 400)])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_refuses(
    engine: StandInEngine, router: RunningRouter, stream: bool, status: int, ours: int
) -> None:
    """Its failures are gateway errors, its busyness a 503, its 4xx the client's."""
    response = await router.chat(
        scripted(fault={"kind": "status", "status": status}), stream=stream
    )
    assert response.status_code == ours
    assert "error" in response.json()
    await no_trace_left(engine, router)


async def test_a_silent_engine_is_given_up() -> None:
    """No byte for the idle timeout: 504, and the generation is cut on the engine."""
    async with (
        StandInEngine(Options(**FAST)) as engine,
        running_router(engine.url, idle_timeout_s=1) as router,
    ):
        response = await router.chat(scripted(fault={"kind": "never"}))
        assert response.status_code == 504
        await no_trace_left(engine, router)


async def test_time_outs_hold_while_a_probe_waits() -> None:
    """The engine stops answering altogether, its health included: requests still end."""
    async with StandInEngine(Options(**FAST)) as engine:

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with running_router(engine.url, idle_timeout_s=0.3) as router:
            port = engine.port
            await engine.stop()
            mute = await asyncio.start_server(silent, "127.0.0.1", port)
            replica = router.router.replicas.replicas[0]
            await eventually(lambda: "silent for 0.3 s" in replica.last_error)
            assert not replica.ready
            mute.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_ends_the_generation(stream: bool) -> None:
    """Streaming or not, the engine stops within a second and no slot leaks."""
    async with (
        StandInEngine(Options(step_ms=20, think_tokens=5000)) as engine,
        running_router(engine.url) as router,
    ):
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
        request = asyncio.create_task(router.http.post("/v1/chat/completions", json=body))
        await eventually(lambda: engine.generation_tokens > 40)
        assert router.router.gate.num_in_flight == 1
        request.cancel()
        await eventually(lambda: not engine.running, within_s=5)
        await no_trace_left(engine, router)
        metrics = (await router.http.get("/metrics")).text
        assert 'outcome="client_gone",preset="chat"' in metrics
        assert 'r1_tokens_total{kind="reasoning",preset="chat"} 0.0' not in metrics


async def test_a_storm_of_disconnects_leaves_nothing_behind() -> None:
    """Two hundred clients leave at different moments of their streams."""
    async with (
        StandInEngine(Options(step_ms=1, think_tokens=5000, prefill_ms=2)) as engine,
        running_router(engine.url) as router,
    ):

        async def leave_after(delay_s: float) -> None:
            task = asyncio.create_task(router.chat("hi", stream=True))
            await asyncio.sleep(delay_s)
            task.cancel()

        await asyncio.gather(*(leave_after(0.005 * i) for i in range(200)))
        await no_trace_left(engine, router)


async def no_trace_left(engine: StandInEngine, router: RunningRouter) -> None:
    """Nothing runs on the engine, no slot, lease or connection is held."""
    replicas = router.router.replicas.replicas
    await eventually(lambda: not engine.running and not engine.waiting)
    await eventually(lambda: router.router.gate.num_in_flight == 0)
    await eventually(lambda: all(replica.num_in_flight == 0 for replica in replicas))


async def test_the_limit_on_concurrency_refuses_with_429() -> None:
    async with (
        StandInEngine(Options(step_ms=20, think_tokens=500)) as engine,
        running_router(engine.url, max_in_flight=1, queue_timeout_s=0.1) as router,
    ):
        first = asyncio.create_task(router.chat("hi"))
        await eventually(lambda: len(engine.running) == 1)
        second = await router.chat("hi")
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert second.json()["error"]["type"] == "rate_limit_error"
        first.cancel()


async def test_metrics_count_requests_and_tokens(router: RunningRouter) -> None:
    reply = (await router.chat(scripted(), preset="math")).json()
    text = (await router.http.get("/metrics")).text
    details = reply["usage"]["completion_tokens_details"]
    assert 'r1_requests_total{outcome="ok",preset="math",route="/v1/chat/completions"} 1.0' in text
    reasoning = float(details["reasoning_tokens"])
    assert f'r1_tokens_total{{kind="reasoning",preset="math"}} {reasoning}' in text
    assert 'r1_time_to_first_answer_seconds_count{class="interactive",preset="math"} 1.0' in text
    assert "r1_in_flight 0.0" in text
    assert "r1_replicas_ready 1.0" in text


async def test_presets_are_read_again_on_sighup(tmp_path: Path) -> None:
    """A good file takes effect, a broken one is left aside."""
    path = tmp_path / "presets.toml"
    table = "[reasoning_effort]\nlow = 1\n[presets.chat]\ndescription='d'\nsource='s'\n"
    path.write_text(f"{table}temperature = 0.5\n")
    async with (
        StandInEngine(Options(**FAST)) as engine,
        running_router(engine.url, presets=str(path)) as router,
    ):

        def temperature() -> float | None:
            return router.router.presets.presets["chat"].temperature

        path.write_text(f"{table}temperature = 0.7\n")
        signal.raise_signal(signal.SIGHUP)
        await eventually(lambda: temperature() == 0.7)
        path.write_text("broken")
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)
        assert temperature() == 0.7


async def test_the_openapi_document_describes_the_bodies(router: RunningRouter) -> None:
    document = (await router.http.get("/openapi.json")).json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    properties = body["content"]["application/json"]["schema"]["properties"]
    assert {"messages", "preset", "thinking_token_budget"} <= properties.keys()


async def test_a_drain_lets_open_streams_end() -> None:
    """Stopping the server while a stream runs: the stream reaches its end."""
    async with StandInEngine(Options(step_ms=5)) as engine:
        async with running_router(engine.url) as router:
            request = asyncio.create_task(router.chat("hi", stream=True))
            await eventually(lambda: len(engine.running) == 1)
            router.drain()
            response = await request
        assert response.text.rstrip().endswith("data: [DONE]")


async def test_a_client_that_reads_slowly_holds_its_engine_back_and_loses_nothing() -> None:
    """The socket's buffers fill, the engine is paused, and at last all of the text arrives."""
    line = "data " * 40
    answer = line * 4000
    options = Options(max_model_len=10**7, **FAST)
    async with StandInEngine(options) as engine, running_router(engine.url) as router:
        chunks = ["</think>", *[line] * 4000]
        body = {
            "messages": [{"role": "user", "content": "script:" + json.dumps({"chunks": chunks})}],
            "stream": True,
            "max_tokens": 10**6,
            "thinking_token_budget": 10**6,  # one leg
            "recover": False,
        }
        request = json.dumps(body).encode()
        host, _, port = router.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(request) + request
        )
        await eventually(lambda: engine.counters.finished > 0)
        parts = []
        while part := await reader.read(65536):
            parts.append(part)
        writer.close()
        assert b"".join(parts).count(line.encode()) == len(answer) // len(line)
        assert b"[DONE]" in b"".join(parts)
        await no_trace_left(engine, router)
