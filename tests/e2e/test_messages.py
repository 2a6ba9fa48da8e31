"""Anthropic's Messages API over real vLLM, used by the official `anthropic` SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.conftest import RunningEngine
from tests.support import RunningRouter, running_router

pytestmark = pytest.mark.engine

QUESTION = "What is 47 + 85?"


@pytest.fixture
async def router(engine: RunningEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


@pytest.fixture
async def client(router: RunningRouter) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=router.url, api_key="none", max_retries=0
    ) as client:
        yield client


def ask(content: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """The SDK has no parameters for sampling: they travel in `extra_body`."""
    messages = [{"role": "user", "content": content}]
    extra = {"temperature": 0, **fields.pop("extra_body", {})}
    asked = {"model": "r1-demo", "max_tokens": 1000, "messages": messages, "extra_body": extra}
    return asked | fields


def said(message: Any) -> list[tuple[str, str]]:
    return [(block.type, getattr(block, block.type)) for block in message.content]


async def test_a_stream_says_what_the_whole_message_says(
    client: anthropic.AsyncAnthropic,
) -> None:
    """Temperature 0: thinking, answer, stop reason and usage; the answer is right."""
    whole: Any = await client.messages.create(**ask())
    async with client.messages.stream(**ask()) as stream:
        text = "".join([part async for part in stream.text_stream])
        streamed: Any = await stream.get_final_message()
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert "\\boxed{132}" in whole.content[1].text
    assert text == whole.content[1].text
    assert said(streamed) == said(whole)
    assert whole.stop_reason == streamed.stop_reason == "end_turn"
    assert streamed.usage == whole.usage
    assert 0 < whole.usage.output_tokens_details.thinking_tokens < whole.usage.output_tokens


async def test_it_says_what_the_chat_says(
    router: RunningRouter, client: anthropic.AsyncAnthropic
) -> None:
    """The same text as by OpenAI's API."""
    message: Any = await client.messages.create(**ask())
    chat = (await router.chat(QUESTION, temperature=0, max_tokens=1000)).json()
    told = chat["choices"][0]["message"]
    assert said(message) == [("thinking", told["reasoning"]), ("text", told["content"])]


async def test_the_synchronous_client(router: RunningRouter) -> None:
    def use() -> tuple[str, str]:
        with anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0) as client:
            whole: Any = client.messages.create(**ask())
            with client.messages.stream(**ask()) as stream:
                return whole.content[-1].text, stream.get_final_text()

    whole, streamed = await asyncio.to_thread(use)
    assert whole == streamed


@pytest.mark.parametrize("tokens", [5, 20])
async def test_the_thinking_budget_holds(client: anthropic.AsyncAnthropic, tokens: int) -> None:
    """And an answer follows."""
    thinking: Any = {"type": "enabled", "budget_tokens": tokens}
    message: Any = await client.messages.create(**ask(thinking=thinking))
    assert message.usage.output_tokens_details.thinking_tokens <= tokens
    assert message.r1["thinking_token_budget"] == tokens
    assert message.content[-1].type == "text"


async def test_thinking_can_be_disabled(client: anthropic.AsyncAnthropic) -> None:
    message: Any = await client.messages.create(**ask(thinking={"type": "disabled"}))
    assert [block.type for block in message.content] == ["text"]
    assert message.usage.output_tokens_details.thinking_tokens == 0


async def test_stop_sequences_end_the_answer_not_the_thinking(
    client: anthropic.AsyncAnthropic,
) -> None:
    """`=` stands in the thinking too."""
    plain: Any = await client.messages.create(**ask())
    stopped: Any = await client.messages.create(**ask(stop_sequences=["132"]))
    assert stopped.content[0].thinking == plain.content[0].thinking
    assert stopped.content[1].text == plain.content[1].text.partition("132")[0]
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "132")


SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["sum"],
    "additionalProperties": False,
}


async def test_a_schema_binds_the_answer(client: anthropic.AsyncAnthropic) -> None:
    """And not the thinking."""
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message: Any = await client.messages.create(**ask(output_config=config))
    assert "{" not in message.content[0].thinking
    assert set(json.loads(message.content[1].text)) == {"sum"}


async def test_a_call_of_a_tool_and_its_result(client: anthropic.AsyncAnthropic) -> None:
    """Whole and streaming the same; the conversation goes on from it."""
    tools: Any = [{"name": "add", "description": "adds", "input_schema": SCHEMA}]
    asked = ask(tools=tools, tool_choice={"type": "tool", "name": "add"})
    whole: Any = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed: Any = await stream.get_final_message()
    for message in (whole, streamed):
        call = message.content[-1]
        assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "add")
        assert set(call.input) == {"sum"}
    assert whole.content[-1].input == streamed.content[-1].input
    result = {"type": "tool_result", "tool_use_id": whole.content[-1].id, "content": "132"}
    turns = [
        *asked["messages"],
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": [result, {"type": "text", "text": QUESTION}]},
    ]
    answer: Any = await client.messages.create(**ask(messages=turns))
    assert answer.content[-1].type == "text"


async def test_tokens_are_counted_as_they_are_used(client: anthropic.AsyncAnthropic) -> None:
    """With a system prompt, several turns and thinking that is dropped."""
    first: Any = await client.messages.create(**ask())
    conversation: Any = {
        "model": "r1-demo:math",
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": "And 12 + 9?"},
        ],
    }
    counted = await client.messages.count_tokens(**conversation)
    message = await client.messages.create(**conversation, max_tokens=300)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"extra_body": {"presett": "math"}}, anthropic.BadRequestError, "mean `preset`"),
        ({"model": "claude"}, anthropic.NotFoundError, "served here: r1-demo"),
        ({"content": "7 " * 5000}, anthropic.BadRequestError, "too many for a context"),
    ],
)
async def test_errors_are_the_sdks_own(
    client: anthropic.AsyncAnthropic, fields: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await client.messages.create(**ask(**fields))
