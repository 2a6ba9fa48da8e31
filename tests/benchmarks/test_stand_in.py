"""The stand-in speaks vLLM 0.32's forms and behaves like an engine in time."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stand_in import END_THINK, EOS, Fault, Options, StandInEngine, decode, encode

USER = [{"role": "user", "content": "hi"}]
QUICK: dict[str, Any] = {"step_ms": 2, "prefill_ms": 1, "think_tokens": 3, "answer_tokens": 2}


@pytest.fixture(params=["split", "raw"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def engine(mode: Any) -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(mode=mode, **QUICK)) as engine:
        yield engine


@pytest.fixture
async def client(engine: StandInEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url) as client:
        yield client


def scripted(**script: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Do this. script:" + json.dumps(script) + " Thanks."}]


async def events(client: httpx.AsyncClient, path: str = "/v1/chat/completions", **body: Any) -> Any:
    """The events of a stream, decoded; asserts that it ends with [DONE]."""
    reply = await client.post(path, json={"stream": True, **body})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    parts = reply.text.removesuffix("\n\n").split("\n\n")
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


async def until(condition: Any, deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.002)


@given(st.text())
def test_tokens_give_back_their_text(text: str) -> None:
    assert decode(encode(text)) == text


@pytest.mark.parametrize("mode", ["split"], indirect=True)
async def test_split_stream_has_the_events_of_vllm(client: httpx.AsyncClient) -> None:
    first, *tokens, last = await events(client, messages=USER)
    assert " ".join(first) == "id object created model choices prompt_token_ids prompt_text"
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert [event["choices"][0]["delta"] for event in tokens] == [
        {"reasoning": " so"},
        {"reasoning": " we"},
        {"reasoning": " add"},
        {"content": " so"},
        {"content": " we"},
    ]
    assert " ".join(tokens[0]["choices"][0]) == "index delta logprobs finish_reason token_ids"
    assert last["choices"][0] == {
        "index": 0,
        "delta": {"content": ""},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": None,
    }


@pytest.mark.parametrize("mode", ["raw"], indirect=True)
async def test_raw_stream_keeps_the_tag_in_the_text(client: httpx.AsyncClient) -> None:
    got = await events(client, messages=USER)
    text = "".join(event["choices"][0]["delta"]["content"] for event in got)
    assert text == " so we add</think> so we"


@pytest.mark.parametrize("mode", ["split"], indirect=True)
async def test_asked_for_ids_and_usage_ride_along(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    got = await events(client, messages=USER, return_token_ids=True, stream_options=options)
    first, *tokens, usage = got
    assert decode(first["prompt_token_ids"]).endswith("<｜User｜>hi<｜Assistant｜><think>\n")
    assert [event["choices"][0]["token_ids"] for event in tokens][3] == [END_THINK]
    assert tokens[3]["choices"][0]["delta"] == {}  # vLLM's parser keeps the lone tag back
    assert tokens[-1]["choices"][0]["token_ids"] == [EOS]
    assert [event["usage"]["completion_tokens"] for event in (first, *tokens)] == [*range(8)]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 7
    # vLLM's own count when the template opened the trace
    assert usage["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_whole_reply_equals_the_stream(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/v1/chat/completions", json={"messages": USER})).json()
    message = whole["choices"][0]["message"]
    got = await events(client, messages=USER)
    for name in ("reasoning", "content"):
        streamed = "".join(event["choices"][0]["delta"].get(name) or "" for event in got)
        assert (message[name] or "") == streamed
    assert whole["usage"]["completion_tokens"] == 7
    assert whole["choices"][0]["finish_reason"] == "stop"


async def test_max_tokens_ends_with_length(client: httpx.AsyncClient) -> None:
    got = await events(client, messages=USER, max_tokens=2, return_token_ids=True)
    assert [event["choices"][0]["finish_reason"] for event in got] == [None, None, "length"]


async def test_every_choice_has_its_own_events(client: httpx.AsyncClient) -> None:
    script = {"choices": [{"answer": "4"}, {"answer": "5"}], "think": "x"}
    got = await events(client, messages=scripted(**script), n=3, seed=1)
    texts = {0: "", 1: "", 2: ""}
    for event in got:
        texts[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content") or ""
    assert [text[-1] for text in texts.values()] == ["5", "4", "5"]


@pytest.mark.parametrize("mode", ["raw"], indirect=True)
async def test_script_gives_exact_chunks(client: httpx.AsyncClient) -> None:
    chunks = ["a</thi", "nk", ">b", {"content": "c", "reasoning": "d"}, "é漢"]
    got = await events(client, messages=scripted(chunks=chunks, finish_reason="length"))
    deltas = [event["choices"][0]["delta"] for event in got[1:]]
    assert deltas == [c if isinstance(c, dict) else {"content": c} for c in chunks]
    assert got[-1]["choices"][0]["finish_reason"] == "length"


async def test_script_comes_in_vllm_xargs_too(client: httpx.AsyncClient) -> None:
    xargs = {"script": json.dumps({"think": "", "answer": "yes"})}
    got = await events(client, messages=USER, vllm_xargs=xargs)
    assert got[-2]["choices"][0]["delta"] == {"content": "s"}


async def test_stream_interval_joins_tokens(client: httpx.AsyncClient) -> None:
    body = {"messages": USER, "stream_interval": 3, "return_token_ids": True}
    got = await events(client, **body)
    assert [len(event["choices"][0]["token_ids"]) for event in got[1:]] == [1, 3, 3]


@pytest.mark.parametrize("mode", ["split"], indirect=True)
async def test_thinking_budget_closes_the_trace_early(client: httpx.AsyncClient) -> None:
    body = {"messages": USER, "thinking_token_budget": 1}
    message = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (" so", " so we")


async def test_completion_continues_a_text_exactly(client: httpx.AsyncClient) -> None:
    messages = scripted(think="one two", answer="\n\nthree")
    prompt = (await client.post("/tokenize", json={"messages": messages})).json()["tokens"]
    body = {"prompt": prompt, "max_tokens": 99, "return_token_ids": True}
    whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    assert whole["text"] == "one two</think>\n\nthree"
    for num in range(len(whole["token_ids"])):
        got = await events(
            client, "/v1/completions", **body | {"prompt": prompt + whole["token_ids"][:num]}
        )
        rest = [i for event in got for i in event["choices"][0]["token_ids"]]
        assert rest == whole["token_ids"][num:]


async def test_completion_answers_a_trace_that_was_closed_early(client: httpx.AsyncClient) -> None:
    messages = scripted(think="one two", answer="\n\nthree")
    prompt = (await client.post("/tokenize", json={"messages": messages})).json()["tokens"]
    body = {"prompt": prompt + encode("one\n</think>\n\n"), "max_tokens": 99}
    whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    assert whole["text"] == "three"


async def test_errors_have_vllms_form(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/chat/completions", json={"messages": USER, "model": "other"})
    assert reply.status_code == 404
    assert reply.json()["error"] == {
        "message": "The model `other` does not exist. Valid aliases: stand-in.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }
    assert (await client.get("/nothing")).json()["error"]["type"] == "Not Found"
    broken = await client.post("/v1/chat/completions", content=b"{")
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "Bad Request")


async def test_prompt_that_is_too_long_is_refused_with_the_numbers() -> None:
    async with (
        StandInEngine(Options(max_model_len=8, **QUICK)) as engine,
        httpx.AsyncClient(base_url=engine.url) as client,
    ):
        messages = [{"role": "user", "content": "0123456789"}]
        reply = await client.post("/v1/chat/completions", json={"messages": messages})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, "input_tokens")
        assert error["message"].startswith(
            "This model's maximum context length is 8 tokens. However, your prompt contains 15 "
        )
        reply = await client.post("/v1/chat/completions", json={"messages": USER, "max_tokens": 9})
        assert "max_tokens=9 cannot be greater than max_model_len=8" in reply.text


async def test_models_tokenize_and_metrics(client: httpx.AsyncClient) -> None:
    card = (await client.get("/v1/models")).json()["data"][0]
    assert (card["id"], card["max_model_len"], card["owned_by"]) == ("stand-in", 32768, "vllm")
    reply = (await client.post("/tokenize", json={"prompt": "a</think>"})).json()
    assert reply["tokens"][-1] == END_THINK
    assert reply["count"] == len(reply["tokens"]) == 3
    text = (await client.get("/metrics")).text
    assert 'vllm:num_requests_running{engine="0",model_name="stand-in"} 0.0' in text
    assert (await client.get("/health")).status_code == 200


async def test_streams_share_one_step_clock() -> None:
    """Eight streams of thirty tokens take the time of one, and never more than the limit run."""
    options = Options(step_ms=5, prefill_ms=1, think_tokens=27, answer_tokens=1, max_num_seqs=4)
    async with StandInEngine(options) as engine, httpx.AsyncClient(base_url=engine.url) as client:

        async def one() -> float:
            await client.post("/v1/chat/completions", json={"messages": USER})
            return time.monotonic()

        started = time.monotonic()
        ends = asyncio.gather(*(one() for _ in range(8)))
        await until(lambda: engine.num_running == 4 and engine.num_waiting == 4)
        taken = sorted(end - started for end in await ends)
        assert taken[0] >= 29 * 0.005  # 30 tokens are 29 steps apart
        assert taken[4] >= 2 * 29 * 0.005  # the second four waited for the first


async def test_disconnect_aborts_at_once(engine: StandInEngine, client: httpx.AsyncClient) -> None:
    for stream in (True, False):
        before = engine.counters.aborted
        body = {"messages": scripted(think=100_000, answer=1), "stream": stream}
        task = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(lambda: engine.num_running == 1)
        task.cancel()
        await until(lambda before=before: engine.counters.aborted == before + 1)
        assert engine.num_running == 0


async def test_requests_are_kept_for_tests_to_see(client: httpx.AsyncClient) -> None:
    body = {"messages": USER, "temperature": 0.5}
    await client.post("/v1/chat/completions", json=body, headers={"x-request-id": "abc"})
    state = (await client.get("/stand_in/state")).json()
    assert (state["finished"], state["running"]) == (1, 0)
    assert state["requests"][-1]["body"] == body
    assert state["requests"][-1]["headers"]["x-request-id"] == "abc"


async def test_draining_engine_is_healthy_but_refuses(
    engine: StandInEngine, client: httpx.AsyncClient
) -> None:
    engine.draining = True
    assert (await client.get("/health")).status_code == 200
    reply = await client.post("/v1/chat/completions", json={"messages": USER})
    assert reply.status_code == 500


@pytest.mark.parametrize(("shutdown_timeout_s", "ends_whole"), [(30.0, True), (0.01, False)])
async def test_what_runs_may_end_in_the_shutdown_timeout(
    shutdown_timeout_s: float, ends_whole: bool
) -> None:
    """And is cut off after it."""
    options = Options(step_ms=2, think_tokens=200, shutdown_timeout_s=shutdown_timeout_s)
    async with StandInEngine(options) as engine, httpx.AsyncClient(base_url=engine.url) as client:
        body = {"messages": USER, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = reply.aiter_lines()
            await anext(lines)
            draining = asyncio.create_task(engine.drain())
            told = ""
            with contextlib.nullcontext() if ends_whole else pytest.raises(httpx.HTTPError):
                async for line in lines:
                    told = line or told
            assert (told == "data: [DONE]") is ends_whole
        await draining


async def test_queue_limit_gives_503_without_retry_after() -> None:
    options = Options(max_num_queued_reqs=0, **QUICK)
    async with StandInEngine(options) as engine, httpx.AsyncClient(base_url=engine.url) as client:
        reply = await client.post("/v1/chat/completions", json={"messages": USER})
        assert reply.status_code == 503
        assert "retry-after" not in reply.headers


async def break_with(engine: StandInEngine, fault: Fault, **body: Any) -> tuple[str, str]:
    """What a client saw of one request under a fault: the text it read, and the error's name."""
    engine.arm(fault)
    seen = ""
    timeout = httpx.Timeout(5, read=1)
    async with httpx.AsyncClient(base_url=engine.url, timeout=timeout) as client:
        try:
            request = {"messages": USER, **body}
            async with client.stream("POST", "/v1/chat/completions", json=request) as reply:
                seen = f"{reply.status_code} {reply.headers['content-type']} "
                async for text in reply.aiter_text():
                    seen += text
        except httpx.HTTPError as error:
            return seen, type(error).__name__
    return seen, ""


@pytest.mark.parametrize("mode", ["split"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "stream", "num_events", "error", "has"),
    [
        (Fault("status", status=503), True, 0, "", "503 application/json"),
        (Fault("content_type"), True, 0, "", "200 text/html <html>"),
        (Fault("never"), True, 0, "ReadTimeout", ""),
        (Fault("never"), False, 0, "ReadTimeout", ""),
        (Fault("close", after=0), True, 0, "RemoteProtocolError", "200 text/event-stream"),
        (Fault("close", after=2), True, 3, "RemoteProtocolError", " we"),
        (Fault("reset", after=2), True, None, "ReadError", "200"),
        (Fault("reset", after=2), False, 0, "ReadError", ""),
        (Fault("stall", after=2), True, 3, "ReadTimeout", " we"),
        (Fault("garbage", after=2), True, 8, "", "nonsense"),
        (Fault("truncated", after=2), True, 4, "", '"model":"stand-in"'),
        (Fault("truncated", after=2), False, 0, "", '"object":"chat.c'),
        (Fault("error", after=2), True, 4, "", '"code": 500}}\n\ndata: [DONE]\n\n'),
        (Fault("error", after=2), False, 0, "", "500 application/json"),
        (Fault("slow", every=3), True, 7, "", "data: [DONE]"),
        (Fault("fragment", size=1), True, 7, "", "data: [DONE]"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else None,
)
async def test_fault_does_what_it_says(
    engine: StandInEngine,
    fault: Fault,
    stream: bool,
    num_events: int | None,
    error: str,
    has: str,
) -> None:
    seen, raised = await break_with(engine, fault, stream=stream)
    assert raised == error
    assert has in seen
    if num_events is not None:
        assert seen.count("data: {") == num_events
    engine.arm(None)
    seen, raised = await break_with(engine, Fault("status", times=0), stream=True)
    assert (raised, seen.endswith("data: [DONE]\n\n")) == ("", True)


async def test_fault_hits_as_many_requests_as_it_says(
    engine: StandInEngine, client: httpx.AsyncClient
) -> None:
    await client.post("/stand_in/fault", json={"kind": "status", "status": 503, "times": 2})
    codes = [
        (await client.post("/v1/chat/completions", json={"messages": USER})).status_code
        for _ in range(3)
    ]
    assert codes == [503, 503, 200]


async def test_script_brings_its_own_fault(client: httpx.AsyncClient) -> None:
    messages = scripted(fault={"kind": "status", "status": 500})
    reply = await client.post("/v1/chat/completions", json={"messages": messages})
    assert reply.json()["error"]["type"] == "InternalServerError"


async def test_stopping_drops_every_connection(engine: StandInEngine) -> None:
    async with httpx.AsyncClient(base_url=engine.url) as client:
        body = {"messages": scripted(think=100_000), "stream": True}
        task = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(lambda: engine.num_running == 1)
        await engine.stop()
        with pytest.raises(httpx.ReadError):
            await task


@pytest.mark.engine
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_events_survive_vllms_own_types(client: httpx.AsyncClient, path: str) -> None:
    """Read into vLLM's response types and written as vLLM writes, every event is the same."""
    chat = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    completion = pytest.importorskip("vllm.entrypoints.openai.completion.protocol")
    types = {
        "/v1/chat/completions": chat.ChatCompletionStreamResponse,
        "/v1/completions": completion.CompletionStreamResponse,
    }
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"messages": USER, "prompt": "hi", "stream": True, "return_token_ids": True}
    reply = await client.post(path, json=body | {"stream_options": options})
    for line in reply.text.split("\n\n")[:-2]:
        data = line.removeprefix("data: ")
        assert types[path].model_validate_json(data).model_dump_json(exclude_unset=True) == data
    wholes = {
        "/v1/chat/completions": chat.ChatCompletionResponse,
        "/v1/completions": completion.CompletionResponse,
    }
    whole = (await client.post(path, json=body | {"stream": False})).json()
    assert wholes[path].model_validate(whole).model_dump() == whole
