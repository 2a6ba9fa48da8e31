"""Control over thinking on real vLLM: budgets, answers within any limit, votes, schemas, tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import openai
import pytest

from demo_model.answers import extract_boxed
from demo_model.problem import Problem
from demo_model.problems import held_out_problems
from demo_model.sums import chain
from tests.conftest import RunningEngine
from tests.support import RunningRouter, running_router

pytestmark = pytest.mark.engine


@pytest.fixture
async def router(engine: RunningEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


@pytest.fixture
async def client(router: RunningRouter) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


def ask(text: str, **fields: Any) -> dict[str, Any]:
    extra = {name: fields.pop(name) for name in ("votes", "recover") if name in fields}
    messages = [{"role": "user", "content": text}]
    return {"model": "r1-demo:math", "messages": messages, "extra_body": extra, **fields}


async def streamed(client: openai.AsyncOpenAI, **body: Any) -> tuple[str, str, str | None]:
    """Trace, answer and finish of a stream."""
    trace = answer = ""
    finish = None
    async for chunk in await client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            trace += getattr(choice.delta, "reasoning_content", None) or ""
            answer += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return trace, answer, finish


async def test_every_limit_gives_an_answer(client: openai.AsyncOpenAI) -> None:
    """From tokens that can't hold the trace on: content always, never more tokens than allowed; the
    stream says the same."""
    (problem,) = held_out_problems("word", 1, seed=3)
    for max_tokens in (2, 5, 8, 16, 24, 32, 48, 64, 128):
        body = ask(problem.question, temperature=0, max_tokens=max_tokens)
        whole: Any = await client.chat.completions.create(**body)
        message = whole.choices[0].message
        assert message.content, max_tokens
        assert whole.usage.completion_tokens <= max_tokens + (max_tokens < 5)
        trace, answer, finish = await streamed(client, **body)
        assert (trace or None, answer) == (message.reasoning_content, message.content), max_tokens
        assert finish == whole.choices[0].finish_reason
    cut: Any = await client.chat.completions.create(
        **ask(problem.question, temperature=0, max_tokens=16, recover=False)
    )
    assert cut.choices[0].message.content is None


async def test_a_budget_closes_the_trace_and_the_answer_follows(client: openai.AsyncOpenAI) -> None:
    """As R1 writes it: the answer begins at once, and nothing of the tag is seen."""
    (problem,) = held_out_problems("addition", 1, seed=5)
    for budget in (0, 1, 7, 19):
        body = ask(problem.question, temperature=0, max_tokens=200)
        body["extra_body"] = {"thinking_token_budget": budget}
        reply: Any = await client.chat.completions.create(**body)
        usage = reply.usage.completion_tokens_details
        assert usage.reasoning_tokens <= budget
        assert extract_boxed(reply.choices[0].message.content) is not None
        assert "think>" not in reply.choices[0].message.content
        assert reply.r1["budget_source"] == "request"


async def test_a_full_context_still_gives_an_answer(client: openai.AsyncOpenAI) -> None:
    """A question said over and over leaves the model rambling on to the end of its context; the
    trace's end gives way to an answer."""
    recovered = []
    for problem in held_out_problems("chain", 4, seed=8):
        text = "\n".join([problem.question] * (3200 // (len(problem.question) + 1)))
        reply: Any = await client.chat.completions.create(**ask(text, temperature=0))
        assert reply.choices[0].message.content
        recovered.append(reply.r1.get("recovered"))
    assert "length" in recovered, recovered


async def test_a_model_that_goes_in_circles_answers(client: openai.AsyncOpenAI) -> None:
    """With a reward for saying the same again the demo model loops on most questions."""
    problems = held_out_problems("word", 8, seed=9)
    body: dict[str, Any] = {"temperature": 0, "frequency_penalty": -2, "max_tokens": 1500}
    replies: list[Any] = await asyncio.gather(
        *(client.chat.completions.create(**ask(p.question, **body)) for p in problems)
    )
    assert all(reply.choices[0].message.content for reply in replies)
    cut = [reply for reply in replies if reply.r1.get("recovered") == "repetition"]
    assert len(cut) >= 4
    for reply in cut:
        assert reply.usage.completion_tokens_details.reasoning_tokens < 400


SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("budget", [5, 20, 400])
async def test_a_schema_holds_also_where_the_trace_was_closed_early(
    client: openai.AsyncOpenAI, budget: int
) -> None:
    """The trace stays free text, the content validates; streaming says the same."""
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
    body = ask("What is 47 + 85?", temperature=0, response_format=form, max_tokens=500)
    body["extra_body"] = {"thinking_token_budget": budget}
    whole: Any = await client.chat.completions.create(**body)
    message = whole.choices[0].message
    assert set(json.loads(message.content)) == {"sum"}
    assert "{" not in message.reasoning_content
    trace, answer, _ = await streamed(client, **body)
    assert (trace, answer) == (message.reasoning_content, message.content)


async def test_a_tool_call_comes_through_after_the_trace(client: openai.AsyncOpenAI) -> None:
    """A call that the engine is made to write is the reply, not text, streaming and not."""
    tool: Any = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
    choice = {"type": "function", "function": {"name": "add"}}
    body = ask("What is 47 + 85?", temperature=0, tools=[tool], tool_choice=choice, max_tokens=500)
    reply: Any = await client.chat.completions.create(**body)
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "add"
    assert set(json.loads(call.function.arguments)) == {"sum"}
    arguments = ""
    async for chunk in await client.chat.completions.create(**body, stream=True):
        for streamed_call in chunk.choices[0].delta.tool_calls or ():
            arguments += streamed_call.function.arguments or ""
    assert json.loads(arguments) == json.loads(call.function.arguments)


def chains(num: int) -> list[Problem]:
    rng, found = Random(11), list[Problem]()
    while len(found) < num:
        problem = chain(rng, "en", length=6, slip_rate=0.0)
        if problem.held_out:
            found.append(problem)
    return found


async def test_votes_are_right_more_often_than_single_samples(client: openai.AsyncOpenAI) -> None:
    """Over the same eight samples a problem: the vote wins where their majority does, and takes
    fewer of them. All at once, with seeds: more prompts than an engine reads in one step."""
    problems = chains(24)

    async def single_and_vote(number: int, problem: Problem) -> tuple[float, bool, Any]:
        body = ask(problem.question, temperature=1, top_p=1, seed=100 * number, max_tokens=400)
        whole, vote = await asyncio.gather(
            client.chat.completions.create(**body, n=8),
            client.chat.completions.create(**body | {"extra_body": {"votes": 8}}),
        )
        right = [extract_boxed(c.message.content or "") == problem.answer for c in whole.choices]
        won = extract_boxed(vote.choices[0].message.content or "") == problem.answer
        return sum(right) / 8, won, vote

    results = await asyncio.gather(*(single_and_vote(i, p) for i, p in enumerate(problems)))
    single = sum(share for share, _, _ in results) / len(results)
    voted = sum(won for _, won, _ in results) / len(results)
    assert 0.4 < single < 0.95
    assert voted > single
    reports = [vote.r1["votes"] for _, _, vote in results]
    assert all(report["n"] == 8 and 4 <= report["counted"] <= 8 for report in reports)
    assert any(report["counted"] < 8 for report in reports)


async def test_a_streamed_vote_is_read_by_the_sdk(client: openai.AsyncOpenAI) -> None:
    """Progress is skipped; one trace, one answer, one finish."""
    (problem,) = chains(1)
    body = ask(problem.question, temperature=1, seed=5, max_tokens=400, votes=3)
    trace, answer, finish = await streamed(client, **body)
    assert trace
    assert extract_boxed(answer) is not None
    assert finish == "stop"
