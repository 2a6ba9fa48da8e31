"""The router over real vLLM, used as its users use it: by the official `openai` SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import RunningEngine
from tests.support import RunningRouter, eventually, running_router

pytestmark = pytest.mark.engine

QUESTION = "What is 47 + 85?"
ENDLESS = {"ignore_eos": True, "max_tokens": 3000}


@pytest.fixture
async def router(engine: RunningEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


@pytest.fixture
async def client(router: RunningRouter) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{router.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def ask(text: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"model": "r1-demo", "messages": [{"role": "user", "content": text}], **fields}


async def test_a_worked_answer_with_its_trace_split_out(client: openai.AsyncOpenAI) -> None:
    """Async, not streaming: reasoning, answer, exact usage."""
    reply = await client.chat.completions.create(**ask(temperature=0))
    message: Any = reply.choices[0].message
    assert "\\boxed{132}" in message.content
    assert "think>" not in message.content + message.reasoning_content
    assert message.reasoning_content == message.reasoning
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    reasoning_tokens = reply.usage.completion_tokens_details.reasoning_tokens or 0
    assert 0 < reasoning_tokens < reply.usage.completion_tokens


async def test_a_stream_says_what_the_whole_reply_says(client: openai.AsyncOpenAI) -> None:
    """Async, streaming, temperature 0: same trace, answer and usage."""
    whole = await client.chat.completions.create(**ask(temperature=0))
    trace = answer = ""
    usage = None
    stream = await client.chat.completions.create(
        **ask(temperature=0, stream=True, stream_options={"include_usage": True})
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            delta: Any = choice.delta
            trace += getattr(delta, "reasoning_content", None) or ""
            answer += delta.content or ""
    message: Any = whole.choices[0].message
    assert (trace, answer) == (message.reasoning_content, message.content)
    assert usage == whole.usage


async def test_the_synchronous_client(router: RunningRouter) -> None:
    """Sync, streaming and not."""

    def use() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(**ask(temperature=0))
            parts = client.chat.completions.create(**ask(temperature=0, stream=True))
            text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            return whole.choices[0].message.content or "", text

    whole, streamed = await asyncio.to_thread(use)
    assert whole == streamed
    assert "\\boxed{132}" in whole


@pytest.mark.parametrize(
    "fields", [{"model": "r1-demo:math"}, {"extra_body": {"preset": "math"}}], ids=["model", "body"]
)
async def test_presets_by_model_name_and_by_extra_body(
    client: openai.AsyncOpenAI, fields: dict[str, Any]
) -> None:
    plain = await client.chat.completions.create(**ask(temperature=0))
    math: Any = await client.chat.completions.create(**{**ask(temperature=0), **fields})
    assert math.r1["preset"] == "math"
    assert math.usage.prompt_tokens > plain.usage.prompt_tokens  # type: ignore[union-attr]
    assert "\\boxed{132}" in math.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"temperature": 5}, openai.BadRequestError, "between 0 and 2"),
        ({"extra_body": {"presett": "math"}}, openai.BadRequestError, "did you mean `preset`"),
        ({"model": "gpt-5"}, openai.NotFoundError, "served here: r1-demo"),
        ({"messages": []}, openai.BadRequestError, "is empty"),
        (
            {"messages": [{"role": "user", "content": "7 " * 5000}]},
            openai.BadRequestError,
            "too many for a context",
        ),
    ],
)
async def test_errors_are_the_sdks_own(
    client: openai.AsyncOpenAI, fields: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await client.chat.completions.create(**{**ask(), **fields})


async def test_no_engine_is_the_sdks_503() -> None:
    async with (
        running_router("http://127.0.0.1:9", wait_ready=False) as router,
        openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="x", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ask())
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"]


async def test_reasoning_tokens_are_exact(client: openai.AsyncOpenAI) -> None:
    """The count equals the ids before `</think>`, which the engine's tokenizer names."""
    reply: Any = await client.chat.completions.create(
        **ask(temperature=0, extra_body={"return_token_ids": True})
    )
    ids = reply.choices[0].token_ids
    assert len(ids) == reply.usage.completion_tokens
    tokenized = await client.post(
        "../tokenize", cast_to=object, body={"prompt": "</think>", "add_special_tokens": False}
    )
    close_id = tokenized["tokens"][0]  # type: ignore[index]
    assert reply.usage.completion_tokens_details.reasoning_tokens == ids.index(close_id)


@pytest.mark.parametrize("budget", [0, 5, 20])
async def test_the_thinking_budget_holds(client: openai.AsyncOpenAI, budget: int) -> None:
    """vLLM closes the trace at the budget; the reply says which budget was applied."""
    reply: Any = await client.chat.completions.create(
        **ask(temperature=0, extra_body={"thinking_token_budget": budget}, max_tokens=200)
    )
    assert reply.usage.completion_tokens_details.reasoning_tokens <= budget
    assert reply.r1["thinking_token_budget"] == budget
    assert reply.r1["budget_source"] == "request"


async def test_stop_strings_end_the_answer_not_the_trace(client: openai.AsyncOpenAI) -> None:
    """`=` stands in the trace too; a string that never comes changes nothing."""
    plain: Any = await client.chat.completions.create(**ask(temperature=0))
    whole = plain.choices[0].message
    for stop in (["="], ["132"], ["a long stop string that never comes"]):
        reply: Any = await client.chat.completions.create(**ask(temperature=0, stop=stop))
        choice = reply.choices[0]
        assert choice.message.reasoning_content == whole.reasoning_content
        assert choice.message.content == whole.content.partition(stop[0])[0]
        assert choice.finish_reason == "stop"
        assert choice.stop_reason == (stop[0] if stop[0] in whole.content else None)


async def test_several_choices_and_logprobs(client: openai.AsyncOpenAI) -> None:
    """n = 4 with log probabilities: one entry per token, in each choice."""
    reply: Any = await client.chat.completions.create(
        **ask(n=4, logprobs=True, top_logprobs=2, extra_body={"return_token_ids": True})
    )
    assert len(reply.choices) == 4
    for choice in reply.choices:
        assert len(choice.logprobs.content) == len(choice.token_ids)
        assert "think>" not in choice.message.content
    assert reply.usage.completion_tokens == sum(len(c.token_ids) for c in reply.choices)


async def test_chinese(client: openai.AsyncOpenAI) -> None:
    """Characters of several bytes arrive whole, and the answer is right."""
    text = "一个数列前两项是 1 和 1，每一项等于前两项之和，第 10 项是多少？"
    reply: Any = await client.chat.completions.create(**ask(text, temperature=0))
    assert "\\boxed{55}" in reply.choices[0].message.content
    assert "\ufffd" not in reply.choices[0].message.reasoning_content


async def test_a_constraint_binds_the_answer_not_the_trace(client: openai.AsyncOpenAI) -> None:
    """The engine knows its reasoning parser, so the grammar starts after `</think>`."""
    constraint = {"structured_outputs": {"choice": ["right: 132", "wrong: 123"]}}
    reply: Any = await client.chat.completions.create(**ask(temperature=0, extra_body=constraint))
    plain: Any = await client.chat.completions.create(**ask(temperature=0))
    message = reply.choices[0].message
    assert message.reasoning_content == plain.choices[0].message.reasoning_content
    assert message.content in constraint["structured_outputs"]["choice"]


async def test_a_json_schema_binds_the_answer_not_the_trace(client: openai.AsyncOpenAI) -> None:
    """A model that has never seen JSON writes what the schema allows, after a free trace."""
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    reply: Any = await client.chat.completions.create(**ask(temperature=0, response_format=form))
    message = reply.choices[0].message
    assert "think>" not in message.reasoning_content
    assert set(json.loads(message.content)) == {"sum"}


async def num_running(http: httpx.AsyncClient, engine: RunningEngine) -> float:
    """vLLM's own count of running requests."""
    text = (await http.get(f"{engine.url}/metrics")).text
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("vllm:num_requests_running{")
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_ends_the_generation(
    engine: RunningEngine, router: RunningRouter, stream: bool
) -> None:
    """vLLM's num_requests_running falls to 0 soon, streaming or not."""
    request = asyncio.create_task(router.chat(QUESTION, stream=stream, **ENDLESS))
    await asyncio.wait_for(until_running(engine, 1), timeout=30)
    request.cancel()
    await asyncio.wait_for(until_running(engine, 0), timeout=10)
    await eventually(lambda: router.router.gate.num_in_flight == 0)


async def until_running(engine: RunningEngine, num_requests: int) -> None:
    async with httpx.AsyncClient() as http:
        while await num_running(http, engine) != num_requests:
            pass  # each look at the metrics waits for its reply
