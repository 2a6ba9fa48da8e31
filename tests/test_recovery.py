"""Thinking that ends without an answer: the trace is closed and the reply goes on to one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.stand_in import (
    END_THINK,
    THINK,
    Connection,
    Fault,
    Options,
    StandInEngine,
    decode,
    encode,
)
from tests.support import RunningRouter, eventually, running_router
from tests.test_failover import joined, no_trace_left

FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}
TRACE, ANSWER = "First 2 + 2 < 5.\n\nThat is 4 🙂.", "It is \\boxed{4}, so <b>4</b>."
SCRIPT = {"think": f"{TRACE}\n", "answer": f"\n\n{ANSWER}"}
TRACE_IDS = encode(TRACE)
FIELDS = ("reasoning_content", "reasoning")


def scripted(**script: Any) -> str:
    return "script:" + json.dumps({**SCRIPT, **script})


@pytest.fixture(params=["split", "raw"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[StandInEngine]:
    """One splits and knows of thinking budgets, the other does neither."""
    async with StandInEngine(Options(mode=request.param, **FAST)) as engine:
        yield engine


@pytest.fixture
async def router(engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router
        await no_trace_left(router, engine)


async def both_ways(router: RunningRouter, text: str, **fields: Any) -> dict[str, Any]:
    """The whole reply, after checking that the stream says the same."""
    whole = (await router.chat(text, **fields)).json()
    events = await router.stream(text, stream_options={"include_usage": True}, **fields)
    assert events[-1] == "[DONE]", events[-1]
    chunks = [event for event in events if isinstance(event, dict)]
    (choice,) = whole["choices"]
    assert joined(events, "reasoning") == (choice["message"]["reasoning"] or "")
    assert joined(events, "content") == (choice["message"]["content"] or "")
    finishes = [(e, c) for e in chunks for c in e["choices"] if c["finish_reason"]]
    ((event, finish),) = finishes
    assert finish["finish_reason"] == choice["finish_reason"]
    assert event.get("r1", {}).get("recovered") == whole["r1"].get("recovered")
    assert chunks[-1]["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    return whole


async def test_every_limit_leaves_an_answer(router: RunningRouter) -> None:
    """For every max_tokens from 1 on: some of the answer, in the half that is kept for it, and no
    more tokens than allowed; limits too small for a closing tag may be exceeded by one."""
    for max_tokens in range(1, 2 * len(TRACE_IDS) + 10):
        reply = await both_ways(router, scripted(), max_tokens=max_tokens)
        message = reply["choices"][0]["message"]
        assert message["content"], max_tokens
        assert ANSWER.startswith(message["content"].rstrip()), max_tokens
        assert TRACE.startswith(message["reasoning"] or "")
        num_tokens = reply["usage"]["completion_tokens"]
        assert num_tokens <= max_tokens + (max_tokens < 5)
        details = reply["usage"]["completion_tokens_details"]
        assert details["reasoning_tokens"] <= max(1, max_tokens // 2)
        if reply["choices"][0]["finish_reason"] == "stop":
            assert message["content"] == ANSWER
        else:
            assert num_tokens >= max_tokens
    assert message == {"role": "assistant", "content": ANSWER, **dict.fromkeys(FIELDS, TRACE)}


async def test_the_reserve_learns_from_answers(router: RunningRouter) -> None:
    """Once some have ended by themselves, thinking gets what they don't need."""
    for _ in range(8):
        reply = (await router.chat(scripted(), preset="math", max_tokens=2000)).json()
        assert reply["r1"]["thinking_token_budget"] == 2000 - 1000
        assert reply["r1"]["budget_source"] == "answer_reserve"
    usage = reply["usage"]
    answer = usage["completion_tokens"] - usage["completion_tokens_details"]["reasoning_tokens"]
    reply = (await router.chat(scripted(), preset="math", max_tokens=2000)).json()
    assert 2000 - 2 * answer < reply["r1"]["thinking_token_budget"] < 2000 - answer


async def test_a_budget_is_kept_whoever_keeps_it(router: RunningRouter) -> None:
    """By the engine, or by ending its leg; the same text, and no recovery is told."""
    for budget in (1, 7, len(TRACE_IDS) - 1, len(TRACE_IDS) + 50):
        reply = await both_ways(router, scripted(), thinking_token_budget=budget)
        message = reply["choices"][0]["message"]
        assert message["content"] == ANSWER
        assert message["reasoning"] == decode(TRACE_IDS[:budget]).strip()
        assert "recovered" not in reply["r1"]
        assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("after", [1, 5, len(TRACE_IDS)])
async def test_a_model_that_stops_while_thinking_answers_all_the_same(
    router: RunningRouter, after: int
) -> None:
    reply = await both_ways(router, scripted(gives_up_after=after))
    message = reply["choices"][0]["message"]
    assert message["content"] == ANSWER
    assert message["reasoning"] == decode(TRACE_IDS[:after]).strip()
    assert reply["r1"]["recovered"] == "eos"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == after


async def test_the_engine_goes_on_from_the_closed_trace(
    engine: StandInEngine, router: RunningRouter
) -> None:
    """The same prompt, the trace without its end token, a closing tag; the chat's own sampling and
    request id; what is left of max_tokens."""
    text = scripted(gives_up_after=9)
    reply = (await router.chat(text, temperature=0.3, seed=4, max_tokens=200)).json()
    (body,) = [r["body"] for r in engine.requests if r["path"] == "/v1/completions"]
    assert decode(body["prompt"]).endswith(f"<think>\n{TRACE[:9]}\n</think>\n\n")
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.3, 4, 200 - 10)
    assert "thinking_token_budget" not in body
    assert body["model"] == reply["model"]


LOOP = "Wait, 2 + 2 may be 5. Let me check. "


async def test_a_trace_that_goes_in_circles_is_cut(
    engine: StandInEngine, router: RunningRouter
) -> None:
    """Within a few rounds; the engine is stopped, and goes on from the first of them."""
    before = engine.counters.aborted
    reply = await both_ways(router, scripted(think=f"Hm. {LOOP * 200}\n"))
    message = reply["choices"][0]["message"]
    assert message["content"] == ANSWER
    assert f"Hm. {LOOP * 200}".startswith(message["reasoning"])
    assert 4 * len(LOOP) <= len(message["reasoning"]) < 7 * len(LOOP)
    assert reply["r1"]["recovered"] == "repetition"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] < 8 * len(LOOP) + len(ANSWER)
    assert engine.counters.aborted - before == 2  # the whole reply's and the stream's
    for body in [r["body"] for r in engine.requests if r["path"] == "/v1/completions"]:
        trace = decode(body["prompt"]).rpartition("<think>\n")[2]
        assert trace.startswith("Hm. Wait")
        assert trace.count("Wait") == 1
        assert trace.endswith("\n</think>\n\n")


async def test_circles_are_left_alone_in_answers_and_where_recovery_is_refused(
    router: RunningRouter,
) -> None:
    reply = await both_ways(router, scripted(answer=f"\n\n{LOOP * 20}"))
    assert reply["choices"][0]["message"]["content"] == LOOP * 20
    reply = await both_ways(router, scripted(think=f"{LOOP * 20}\n"), recover=False)
    assert reply["choices"][0]["message"]["reasoning"] == (LOOP * 20).strip()
    reply = await both_ways(router, scripted(think="".join(f"{i}, " for i in range(500)) + "\n"))
    assert "recovered" not in reply["r1"]


async def test_circles_are_seen_across_a_failover() -> None:
    """They begin on one engine and are cut on the other."""
    text = scripted(think=f"{LOOP * 200}\n")
    for after in (40, 90, 120):
        async with (
            StandInEngine(Options(**FAST)) as first,
            StandInEngine(Options(**FAST)) as second,
            running_router(first.url, second.url) as router,
        ):
            first.arm(Fault("reset", after=after, times=1))
            second.arm(Fault("reset", after=after, times=1))
            reply = (await router.chat(text, stream_options=None)).json()
            assert reply["choices"][0]["message"]["content"] == ANSWER
            assert reply["r1"]["recovered"] == "repetition"
            assert reply["r1"]["failovers"] >= 1
            assert len(reply["choices"][0]["message"]["reasoning"]) < 7 * len(LOOP)


async def test_what_is_wanted_at_least_fits_every_leg(
    engine: StandInEngine, router: RunningRouter
) -> None:
    """vLLM refuses min_tokens above max_tokens: a leg that ends at the budget asks for no more."""
    await router.chat(scripted(), max_tokens=100, min_tokens=80, thinking_token_budget=10)
    first, second = [r["body"] for r in engine.requests if "completions" in r["path"]][-2:]
    assert (first["min_tokens"], first["max_tokens"]) == (10, 10)
    assert second["min_tokens"] == 80 - len(second["prompt"]) + len(first_prompt(second))
    assert second["min_tokens"] <= second["max_tokens"]


def first_prompt(body: dict[str, Any]) -> list[int]:
    """The prompt's own part of what a second leg begins with: up to the opened trace."""
    ids: list[int] = body["prompt"]
    return ids[: len(ids) - ids[::-1].index(THINK) + len(encode("\n"))]


class Speechless(StandInEngine):
    """Can't turn token ids into text."""

    num_asked = 0

    def handle(self, connection: Connection, method: str, path: str, data: bytes) -> None:
        if path == "/detokenize":
            self.num_asked += 1
            connection.reset()
        else:
            super().handle(connection, method, path, data)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_recovery_that_cannot_be_begun_ends_with_an_error(stream: bool) -> None:
    """After a few tries, not after endless ones."""
    async with Speechless(Options(**FAST)) as engine, running_router(engine.url) as router:
        response = await router.chat(scripted(gives_up_after=9), stream=stream)
        if stream:
            assert '"engine_error"' in response.text.rstrip().rpartition("\n\n")[2]
        else:
            assert response.status_code == 502
        assert 0 < engine.num_asked < 12
        await no_trace_left(router, engine)


async def test_recovery_can_be_refused(router: RunningRouter) -> None:
    """Then the reply is as the engine made it, and nothing is reserved."""
    reply = await both_ways(router, scripted(gives_up_after=9), recover=False)
    assert reply["choices"][0]["message"]["content"] is None
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert "recovered" not in reply["r1"]
    reply = await both_ways(router, scripted(), recover=False, max_tokens=9)
    assert reply["choices"][0]["message"]["content"] is None
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["r1"]["budget_source"] == "preset"


async def test_a_fixed_length_is_not_recovered(router: RunningRouter) -> None:
    """With `ignore_eos` the client wants just so many tokens, whatever they are."""
    reply = await both_ways(router, scripted(), max_tokens=9, ignore_eos=True)
    assert reply["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize("field", ["tools", "logprobs"])
async def test_what_the_engine_parses_itself_is_left_as_it_is(
    router: RunningRouter, field: str
) -> None:
    """A trace that the model gave up can't go on there; the reserve holds where engines keep it."""
    fields: dict[str, Any] = {
        "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "logprobs": {"logprobs": True},
    }[field]
    reply = (await router.chat(scripted(gives_up_after=9), **fields)).json()
    assert reply["choices"][0]["message"]["content"] is None
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_a_full_context_gives_way_to_the_answer() -> None:
    """Where prompt and trace fill the context, the trace's end is left out of what the engine sees
    when it answers; the client still has all of it."""
    long = "".join(f"{i}," for i in range(95))
    async with (
        StandInEngine(Options(max_model_len=600, **FAST)) as engine,
        running_router(engine.url) as router,
    ):
        text = scripted(think=long + "\n")
        prompt = (await router.chat(text)).json()["usage"]["prompt_tokens"]
        assert prompt < 600 < prompt + len(long), "the test wants a context that is too small"
        reply = await both_ways(router, text)
        message = reply["choices"][0]["message"]
        assert message["content"] == ANSWER
        assert long.startswith(message["reasoning"])
        assert reply["r1"]["recovered"] == "length"
        body = engine.requests[-1]["body"]
        assert len(body["prompt"]) + body["max_tokens"] <= 600
        assert END_THINK in body["prompt"]


@pytest.mark.parametrize("stream", [True, False])
async def test_several_choices_recover_each_by_itself(router: RunningRouter, stream: bool) -> None:
    """Of three choices the second gives up: it alone goes on, and `r1` says which."""
    choices = [{"think": f"t{i}\n", "answer": f"\n\na{i}"} for i in range(3)]
    choices[1]["gives_up_after"] = 2  # type: ignore[assignment]
    text = "script:" + json.dumps({"choices": choices})
    if stream:
        events = await router.stream(text, n=3, seed=0)
        said = ["", "", ""]
        notes: list[Any] = [None, None, None]
        for event in events[:-1]:
            for choice in event["choices"]:
                said[choice["index"]] += choice["delta"].get("content") or ""
                if choice["finish_reason"]:
                    notes[choice["index"]] = event.get("r1", {}).get("recovered")
    else:
        reply = (await router.chat(text, n=3, seed=0)).json()
        said = [choice["message"]["content"] for choice in reply["choices"]]
        notes = reply["r1"]["recovered"]
    assert said == ["a0", "a1", "a2"]
    assert notes == [None, "eos", None]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 1, 3, 20])
async def test_an_engine_may_die_while_it_recovers(stream: bool, after: int) -> None:
    """In the second leg, after so many tokens of the answer: one text, both facts told."""
    text = scripted(gives_up_after=12)
    slow = Options(step_ms=4, prefill_ms=0)
    async with (
        StandInEngine(slow) as first,
        StandInEngine(slow) as second,
        running_router(first.url, second.url) as router,
    ):

        async def arm() -> None:
            await eventually(lambda: bool(first.running or second.running))
            for engine in (first, second):
                engine.arm(Fault("reset", after=after, times=1))

        arming = asyncio.create_task(arm())
        if stream:
            events = await router.stream(text)
            said = joined(events, "reasoning"), joined(events, "content")
            (note,) = [e["r1"] for e in events if isinstance(e, dict) and "r1" in e]
        else:
            reply = (await router.chat(text)).json()
            message, note = reply["choices"][0]["message"], reply["r1"]
            said = message["reasoning"], message["content"]
        await arming
        assert said == (TRACE[:12].strip(), ANSWER)
        assert note["recovered"] == "eos"
        if after:  # before its first byte it is a retry
            assert note["failovers"] >= 1
        await no_trace_left(router, first, second)


async def test_a_client_that_leaves_during_a_recovery_ends_it(
    engine: StandInEngine, router: RunningRouter
) -> None:
    text = scripted(gives_up_after=9, answer="y" * 5000)
    body = {"messages": [{"role": "user", "content": text}], "stream": True}
    async with router.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if '"content":"y' in line:
                break
    await no_trace_left(router, engine)
    assert engine.counters.aborted == 1


async def test_nobody_left_to_recover_is_an_error(engine: StandInEngine) -> None:
    """The second leg finds no engine: what came stays, an error says why, nothing is left open."""
    async with running_router(engine.url) as router:

        async def stop_soon() -> None:
            await eventually(lambda: engine.generation_tokens > before + 5)
            await engine.stop()

        before = engine.generation_tokens
        engine.arm(Fault("slow"))
        stopping = asyncio.create_task(stop_soon())
        events = await router.stream(scripted(gives_up_after=30))
        await stopping
        assert "error" in events[-1]
        assert router.router.gate.num_in_flight == 0
