"""`/v1/responses` over real vLLM, by the official `openai` SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.conftest import RunningEngine
from tests.support import running_router

pytestmark = pytest.mark.engine

QUESTION = "What is 47 + 85?"


@pytest.fixture
async def client(engine: RunningEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        running_router(engine.url) as router,
        openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "r1-demo", "input": QUESTION, "temperature": 0, **fields}


def texts_of(response: Any) -> tuple[str, str]:
    trace, _ = response.output
    return trace.content[0].text, response.output_text


async def test_a_stream_says_what_the_whole_response_says(client: openai.AsyncOpenAI) -> None:
    """Temperature 0: same trace, answer and usage, in the deltas and in the last event; the chat
    of the same text says it too."""
    whole = await client.responses.create(**ask())
    trace, answer = texts_of(whole)
    assert "\\boxed{132}" in answer
    assert "think>" not in trace + answer
    deltas = {"response.reasoning_text.delta": "", "response.output_text.delta": ""}
    async with client.responses.stream(**ask()) as stream:
        async for event in stream:
            if event.type in deltas:
                deltas[event.type] += event.delta
        last = await stream.get_final_response()
    assert tuple(deltas.values()) == texts_of(last) == (trace, answer)
    assert last.usage == whole.usage
    chat: Any = await client.chat.completions.create(
        model="r1-demo", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    message = chat.choices[0].message
    assert (message.reasoning_content, message.content) == (trace, answer)
    assert whole.usage is not None
    assert whole.usage.output_tokens == chat.usage.completion_tokens


async def test_a_conversation_goes_on_with_its_items(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(**ask())
    items: list[Any] = [{"role": "user", "content": QUESTION}, *first.output]
    second = await client.responses.create(
        **ask(input=[*items, {"role": "user", "content": "What is 12 + 30?"}])
    )
    assert second.status == "completed"
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_a_json_schema_binds_the_answer(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "sum", "schema": schema, "strict": True}}
    response = await client.responses.create(**ask(text=form))
    assert set(json.loads(response.output_text)) == {"sum"}


async def test_a_trace_cut_off_is_recovered(client: openai.AsyncOpenAI) -> None:
    """A limit that the thinking alone would use up still brings an answer, and the reply says
    which budget held."""
    response: Any = await client.responses.create(**ask(max_output_tokens=60))
    assert response.output[-1].type == "message"
    assert response.usage.output_tokens <= 60
    assert response.r1["budget_source"] == "answer_reserve"


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"input": "7 " * 5000}, openai.BadRequestError, "too many for a context"),
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "items again"),
    ],
)
async def test_errors_are_the_sdks_own(
    client: openai.AsyncOpenAI, fields: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await client.responses.create(**ask(**fields))
