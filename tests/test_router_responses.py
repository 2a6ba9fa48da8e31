"""`/v1/responses` over the stand-in engine, used as its users use it: by the official SDK."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pydantic
import pytest

from benchmarks.stand_in import Options, StandInEngine
from tests.support import RunningRouter, eventually, running_router

FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}
TRACE, ANSWER = "First 2 + 2.\nThat is 4.", "The answer is \\boxed{4}."
SCRIPT = {"think": f"{TRACE}\n", "answer": f"\n\n{ANSWER}"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}


def scripted(**script: Any) -> str:
    """An input that tells the stand-in what to say."""
    return "script:" + json.dumps({**SCRIPT, **script})


@pytest.fixture(params=["split", "raw"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(mode=request.param, **FAST)) as engine:
        yield engine


@pytest.fixture
async def router(engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


@contextlib.asynccontextmanager
async def sdk(router: RunningRouter) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{router.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def client(router: RunningRouter) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(router) as client:
        yield client


async def events_of(client: openai.AsyncOpenAI, **fields: Any) -> list[Any]:
    stream = await client.responses.create(model="stand-in", stream=True, **fields)
    return [event async for event in stream]


def joined(events: list[Any], kind: str) -> str:
    return "".join(event.delta for event in events if event.type == f"response.{kind}.delta")


async def test_a_whole_response(client: openai.AsyncOpenAI) -> None:
    """Trace and answer as items, exact usage, what was applied, and what was asked."""
    response: Any = await client.responses.create(
        model="stand-in:math", input=scripted(), metadata={"a": "b"}, store=True
    )
    trace, message = response.output
    assert (trace.type, trace.content[0].text, trace.summary) == ("reasoning", TRACE, [])
    assert (message.type, message.status, response.output_text) == ("message", "completed", ANSWER)
    assert (response.status, response.object) == ("completed", "response")
    assert response.id.startswith("resp_")
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens
    assert response.r1["preset"] == "math"
    assert (response.temperature, response.metadata, response.store) == (0.6, {"a": "b"}, False)


async def test_a_stream_says_what_the_whole_response_says(client: openai.AsyncOpenAI) -> None:
    """The last event has the whole response; the deltas add up to its texts."""
    whole = await client.responses.create(model="stand-in", input=scripted())
    events = await events_of(client, input=scripted())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert joined(events, "reasoning_text") == TRACE
    assert joined(events, "output_text") == ANSWER
    last = events[-1]
    assert last.type == "response.completed"
    assert {event.response.id for event in events if hasattr(event, "response")} == {
        last.response.id
    }
    own = {"id", "created_at"}
    streamed, other = last.response.to_dict(), whole.to_dict()
    for response in (streamed, other):
        for item in response["output"]:
            del item["id"]
    assert {k: v for k, v in streamed.items() if k not in own} == {
        k: v for k, v in other.items() if k not in own
    }


async def test_a_stream_is_named_events_without_a_done(router: RunningRouter) -> None:
    response = await router.http.post("/v1/responses", json={"input": scripted(), "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"].startswith("resp_")
    assert "[DONE]" not in response.text
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("event: ") for block in blocks)


async def test_the_sdks_stream_helper(client: openai.AsyncOpenAI) -> None:
    """It follows the items by its own rules, and gives the response at the end."""
    async with client.responses.stream(model="stand-in", input=scripted()) as stream:
        snapshots = [e.snapshot async for e in stream if e.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert snapshots[-1] == response.output_text == ANSWER


async def test_a_conversation_goes_on_with_its_items(
    engine: StandInEngine, client: openai.AsyncOpenAI
) -> None:
    """The output is sent back as it came; its trace isn't shown to the model again."""
    first = await client.responses.create(model="stand-in", input=scripted(), instructions="brief")
    items: list[Any] = [{"role": "user", "content": "2+2?"}, *first.output]
    await client.responses.create(
        model="stand-in", input=[*items, {"role": "user", "content": "again"}]
    )
    assert [
        (message["role"], message["content"]) for message in engine.requests[-1]["body"]["messages"]
    ] == [("user", "2+2?"), ("assistant", ANSWER), ("user", "again")]
    assert engine.requests[-2]["body"]["messages"][0]["content"].startswith("brief\n\n")


async def test_calls_of_tools(engine: StandInEngine, client: openai.AsyncOpenAI) -> None:
    """Two calls, whole and as a stream; the engine gets the tools as a chat's."""
    calls = [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]
    chunks = ["x", "</think>", *({"tool_calls": [call]} for call in calls)]
    text = "script:" + json.dumps({"chunks": chunks, "finish_reason": "tool_calls"})
    fields: dict[str, Any] = {"input": text, "tools": [TOOL], "tool_choice": "auto"}
    response: Any = await client.responses.create(model="stand-in", **fields)
    assert [(item.call_id, item.name, item.arguments) for item in response.output[1:]] == [
        ("c0", "f", '{"a":1}'),
        ("c1", "f", "{}"),
    ]
    assert response.tools[0].name == "f"
    body = engine.requests[-1]["body"]
    assert body["tools"][0]["function"] == {
        "name": "f",
        "parameters": {"type": "object"},
        "strict": False,
    }
    events = await events_of(client, **fields)
    assert joined(events, "function_call_arguments") == '{"a":1}{}'
    assert [item.arguments for item in events[-1].response.output[1:]] == ['{"a":1}', "{}"]
    async with client.responses.stream(model="stand-in", **fields) as stream:
        assert (await stream.get_final_response()).output[1].type == "function_call"


async def test_structured_output(engine: StandInEngine, client: openai.AsyncOpenAI) -> None:
    """The SDK's `parse`: the schema reaches the engine, the answer comes back as an object."""

    class Sum(pydantic.BaseModel):
        sum: int

    response = await client.responses.parse(
        model="stand-in", input=scripted(answer='\n\n{"sum": 4}'), text_format=Sum
    )
    assert response.output_parsed == Sum(sum=4)
    form = engine.requests[-1]["body"]["response_format"]
    assert (form["type"], form["json_schema"]["name"]) == ("json_schema", "Sum")
    assert form["json_schema"]["schema"]["required"] == ["sum"]


async def test_fields_of_ours_by_extra_body(
    engine: StandInEngine, client: openai.AsyncOpenAI
) -> None:
    response: Any = await client.responses.create(
        model="stand-in",
        input=scripted(),
        extra_body={"preset": "math", "thinking_token_budget": 512, "top_k": 5},
    )
    assert (response.r1["preset"], response.r1["budget_source"]) == ("math", "request")
    assert engine.requests[-1]["body"]["top_k"] == 5


async def test_effort_is_a_budget(client: openai.AsyncOpenAI) -> None:
    response: Any = await client.responses.create(
        model="stand-in", input=scripted(), reasoning={"effort": "low"}
    )
    assert response.r1["budget_source"] == "reasoning_effort"
    assert response.reasoning.effort == "low"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"input": scripted(gives_up_after=9)}, {"recovered": "eos"}),
        (
            {"input": scripted(think="t" * 200 + "\n"), "max_output_tokens": 100},
            {"budget_source": "answer_reserve"},
        ),
    ],
)
async def test_a_trace_that_comes_to_no_answer_is_continued_to_one(
    client: openai.AsyncOpenAI, fields: dict[str, Any], told: dict[str, str]
) -> None:
    """The model stops in its trace, or the limit falls into it: whole and streamed, `r1` tells."""
    response: Any = await client.responses.create(model="stand-in", **fields)
    assert response.output_text == ANSWER
    assert response.r1.items() >= told.items()
    events = await events_of(client, **fields)
    assert events[-1].response.output_text == joined(events, "output_text") == ANSWER
    assert events[-1].response.r1 == response.r1


async def test_an_answer_cut_off_is_incomplete(client: openai.AsyncOpenAI) -> None:
    fields: dict[str, Any] = {
        "input": scripted(),
        "max_output_tokens": 5,
        "extra_body": {"recover": False},
    }
    response: Any = await client.responses.create(model="stand-in", **fields)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in response.output] == ["incomplete"]
    assert (await events_of(client, **fields))[-1].type == "response.incomplete"


async def test_a_vote(client: openai.AsyncOpenAI) -> None:
    """Its progress comes as comments, which the SDK passes over; then the winner, told in `r1`."""
    choices = [{"think": "t\n", "answer": f"\n\n\\boxed{{{i}}}"} for i in (4, 5, 4)]
    fields: dict[str, Any] = {
        "input": "script:" + json.dumps({"choices": choices}),
        "extra_body": {"preset": "math", "votes": 3, "seed": 0},
    }
    response: Any = await client.responses.create(model="stand-in", **fields)
    assert response.output_text == "\\boxed{4}"
    assert response.r1["votes"]["n"] == 3
    events = await events_of(client, **fields)
    assert joined(events, "output_text") == "\\boxed{4}"


@contextlib.asynccontextmanager
async def one_engine_breaks(after: int) -> AsyncIterator[RunningRouter]:
    """Two engines, of which the first resets its connection after so many events."""
    async with (
        StandInEngine(Options(**FAST)) as first,
        StandInEngine(Options(**FAST)) as second,
        running_router(first.url, second.url, balancing="round_robin") as router,
    ):
        async with httpx.AsyncClient() as http:
            await http.post(
                f"{first.url}/stand_in/fault", json={"kind": "reset", "after": after, "times": 1}
            )
        yield router


@pytest.mark.parametrize("after", [5, len(TRACE) + 8])
async def test_a_stream_goes_on_where_an_engine_broke(after: int) -> None:
    """In the trace and in the answer: no character twice or missing, and `r1` tells."""
    async with one_engine_breaks(after) as router, sdk(router) as client:
        events = await events_of(client, input=scripted())
        assert joined(events, "reasoning_text") == TRACE
        assert joined(events, "output_text") == ANSWER
        assert events[-1].type == "response.completed"
        assert events[-1].response.r1["failovers"] == 1


async def test_a_stream_that_cannot_go_on_raises_in_the_sdk() -> None:
    """The message names the field by its name here; the failed response comes after the error."""
    async with one_engine_breaks(len(TRACE) + 8) as router:
        fields: dict[str, Any] = {
            "input": scripted(),
            "text": {"format": {"type": "json_object"}},
        }
        async with sdk(router) as client:
            with pytest.raises(openai.APIError, match=r"because of `text\.format`"):
                await events_of(client, **fields)


async def test_an_error_ends_a_stream_with_the_failed_response(router: RunningRouter) -> None:
    text = scripted(fault={"kind": "error", "after": 9})
    response = await router.http.post(
        "/v1/responses", json={"input": text, "stream": True, "tools": [TOOL]}
    )
    assert response.status_code == 200
    *_, error, failed = response.text.removesuffix("\n\n").split("\n\n")
    assert error.startswith("event: error\n")
    assert json.loads(failed.partition("data: ")[2])["response"]["status"] == "failed"
    assert router.router.gate.num_in_flight == 0


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id"),
        ({"max_output_tokens": 10**9}, openai.BadRequestError, "max_output_tokens"),
        ({"extra_body": {"presett": "math"}}, openai.BadRequestError, "presett"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model"),
        ({"input": "x" * 40000}, openai.BadRequestError, "input"),
        ({"input": scripted(fault={"kind": "status", "status": 503})}, openai.APIError, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_errors_before_the_reply_are_the_sdks_own(
    client: openai.AsyncOpenAI,
    fields: dict[str, Any],
    error: type[openai.APIError],
    param: str | None,
    stream: bool,
) -> None:
    asked: dict[str, Any] = {"model": "stand-in", "input": "hi", "stream": stream, **fields}
    with pytest.raises(error) as caught:
        await client.responses.create(**asked)
    assert caught.value.param == param


async def test_requests_are_counted_by_their_route(router: RunningRouter) -> None:
    await router.http.post("/v1/responses", json={"input": scripted()})
    text = (await router.http.get("/metrics")).text
    assert 'r1_requests_total{outcome="ok",preset="chat",route="/v1/responses"} 1.0' in text
    await eventually(lambda: router.router.gate.num_in_flight == 0)
