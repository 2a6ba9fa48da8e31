"""A replica fails in the middle of a reply: the client gets the same text, from another one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from tests.support import RunningRouter, eventually, running_router

FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}
TRACE, ANSWER = "First 2 + 2 < 5.\n\nThat is 4 🙂.", "It is \\boxed{4}, so <b>4</b>."
SCRIPT = {"think": f"{TRACE}\n", "answer": f"\n\n{ANSWER}"}
IN_ANSWER = len(TRACE) + 8
"""Events after which the answer has begun: the stand-in has a token per character."""
MESSAGE = "script:" + json.dumps(SCRIPT)


@contextlib.asynccontextmanager
async def two_engines(
    fault: Fault | None, mode: Any = "split"
) -> AsyncIterator[tuple[StandInEngine, StandInEngine, RunningRouter]]:
    """The first takes the first request and has the fault, armed once the router knows it."""
    async with (
        StandInEngine(Options(mode=mode, **FAST)) as first,
        StandInEngine(Options(mode=mode, **FAST)) as second,
        running_router(first.url, second.url, balancing="round_robin") as running,
    ):
        if fault is not None:
            async with httpx.AsyncClient() as http:
                await http.post(
                    f"{first.url}/stand_in/fault",
                    json={"kind": fault.kind, "after": fault.after, "status": fault.status},
                )
        yield first, second, running
        await no_trace_left(running, first, second)


async def no_trace_left(router: RunningRouter, *engines: StandInEngine) -> None:
    """No slot, lease or generation is left."""
    await eventually(lambda: not any(engine.running for engine in engines))
    replicas = router.router.replicas.replicas
    await eventually(lambda: not any(replica.num_in_flight for replica in replicas))
    assert router.router.gate.num_in_flight == 0


def joined(events: list[Any], field: str) -> str:
    deltas = [c["delta"] for e in events if isinstance(e, dict) for c in e.get("choices", ())]
    return "".join(delta.get(field) or "" for delta in deltas)


async def undisturbed(mode: str, **fields: Any) -> Any:
    async with two_engines(None, mode) as (_, _, router):
        return (await router.chat(MESSAGE, **fields)).json()


@pytest.mark.parametrize("mode", ["split", "raw"])
async def test_a_stream_goes_on_exactly_wherever_it_was_cut(mode: str) -> None:
    """For every token at which the first engine dies: one role, one id, the same trace and answer,
    one finish, the same usage."""
    whole = await undisturbed(mode)
    num_tokens = whole["usage"]["completion_tokens"]
    room = asyncio.Semaphore(8)

    async def cut(after: int) -> None:
        async with room, two_engines(Fault("reset", after=after), mode) as (_, second, router):
            events = await router.stream(MESSAGE, stream_options={"include_usage": True})
            assert events[-1] == "[DONE]", (after, events[-1])
            assert joined(events, "reasoning") == TRACE, after
            assert joined(events, "content") == ANSWER, after
            chunks = [event for event in events if isinstance(event, dict)]
            assert len({chunk["id"] for chunk in chunks}) == 1
            roles = [c for e in chunks for c in e["choices"] if "role" in c["delta"]]
            assert len(roles) == 1
            finishes = [(e, c) for e in chunks for c in e["choices"] if c["finish_reason"]]
            assert [choice["finish_reason"] for _, choice in finishes] == ["stop"]
            assert chunks[-1]["usage"] == whole["usage"], after
            if second.counters.num_requests:
                said_by = {"failovers": 1} if after else None  # else nobody had begun
                assert finishes[0][0].get("r1") == said_by

    await asyncio.gather(*map(cut, range(num_tokens)))


@pytest.mark.parametrize("kind", ["close", "reset", "garbage", "truncated", "error"])
@pytest.mark.parametrize("stream", [True, False])
async def test_every_way_to_break_off_is_made_good(kind: Any, stream: bool) -> None:
    async with two_engines(Fault(kind, after=9)) as (_, _, router):
        if stream:
            events = await router.stream(MESSAGE, seed=7)
            assert (joined(events, "reasoning"), joined(events, "content")) == (TRACE, ANSWER)
            (note,) = [e["r1"] for e in events if isinstance(e, dict) and "r1" in e]
        else:
            reply = (await router.chat(MESSAGE, seed=7)).json()
            message = reply["choices"][0]["message"]
            assert (message["reasoning"], message["content"]) == (TRACE, ANSWER)
            note = reply["r1"]
        assert note["failovers"] == 1
        assert note["seed_kept"] is False


async def test_stop_strings_hold_over_a_failover() -> None:
    """One that begins on the first engine and ends on the second."""
    whole = await undisturbed("split", stop=["boxed{4}"])
    text = whole["choices"][0]["message"]["content"]
    assert text == "It is \\"
    for after in range(40, 58):
        async with two_engines(Fault("close", after=after)) as (_, _, router):
            reply = (await router.chat(MESSAGE, stop=["boxed{4}"])).json()
            choice = reply["choices"][0]
            assert choice["message"]["content"] == text, after
            assert choice["stop_reason"] == "boxed{4}"


async def test_limits_are_those_of_the_whole_reply() -> None:
    """What the first engine said counts against max_tokens and the context."""
    whole = await undisturbed("split", max_tokens=30)
    async with two_engines(Fault("reset", after=11)) as (_, second, router):
        reply = (await router.chat(MESSAGE, max_tokens=30)).json()
        assert reply["choices"] == whole["choices"]
        assert reply["usage"] == whole["usage"]
        continued, rest = [r["body"] for r in second.requests if r["path"] == "/v1/completions"]
        assert continued["max_tokens"] < 15  # the thinking's half
        assert rest["max_tokens"] == 15


async def test_a_trace_that_is_thinking_still_has_its_budget() -> None:
    """What has been thought counts; the trace is closed at the same token as without a failure."""
    fields = {"thinking_token_budget": 20, "max_tokens": 100}
    whole = await undisturbed("split", **fields)
    async with two_engines(Fault("reset", after=5)) as (_, second, router):
        reply = (await router.chat(MESSAGE, **fields)).json()
        assert reply["choices"] == whole["choices"]
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20
        continued, _ = [r["body"] for r in second.requests if r["path"] == "/v1/completions"]
        assert 0 < continued["max_tokens"] < 20


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("logprobs", {"logprobs": True}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "add"}}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
    ],
)
async def test_what_can_not_be_continued_ends_with_a_clear_error(
    field: str, fields: dict[str, Any]
) -> None:
    """A stream gets an error event that names the field; a whole reply is simply made anew."""
    async with two_engines(Fault("reset", after=IN_ANSWER)) as (_, _, router):
        events = await router.stream(MESSAGE, **fields)
        assert f"`{field}`" in events[-1]["error"]["message"]
        assert events[-1]["error"]["code"] == "engine_error"
    async with two_engines(Fault("reset", after=IN_ANSWER)) as (_, _, router):
        reply = (await router.chat(MESSAGE, **fields)).json()
        assert reply["r1"]["failovers"] == 1
        for choice in reply["choices"]:
            assert choice["message"]["content"] == ANSWER
            assert choice["message"]["reasoning"] == TRACE


async def test_a_request_that_fails_everywhere_is_given_up() -> None:
    """Three engines' worth of attempts, then the error: it may be the request that kills them."""
    fault = {"kind": "reset", "after": 4}
    message = "script:" + json.dumps({**SCRIPT, "fault": fault})
    async with two_engines(None) as (first, second, router):
        before = first.counters.num_requests + second.counters.num_requests
        events = await router.stream(message)
        assert events[-1]["error"]["code"] == "engine_error"
        after = first.counters.num_requests + second.counters.num_requests
        assert after - before == 3


async def test_an_invalid_request_is_not_tried_elsewhere() -> None:
    async with two_engines(Fault("status", status=400)) as (_, second, router):
        before = second.counters.num_requests
        assert (await router.chat(MESSAGE)).status_code == 400
        assert second.counters.num_requests == before


@pytest.mark.parametrize("stream", [True, False])
async def test_a_plain_completion_moves_until_its_first_byte(stream: bool) -> None:
    """Before it, another engine takes over; after it, a stream ends with an error event."""
    body = {"prompt": "hello", "max_tokens": 20, "stream": stream}
    async with two_engines(Fault("close", after=0)) as (_, _, router):
        response = await router.http.post("/v1/completions", json=body)
        assert response.status_code == 200
        assert "error" not in response.text
    if stream:
        async with two_engines(Fault("close", after=4)) as (_, _, router):
            response = await router.http.post("/v1/completions", json=body)
            last = json.loads(response.text.split("data: ")[-1])
            assert last["error"]["code"] == "engine_error"


async def test_a_client_that_leaves_during_a_failover_leaves_nothing() -> None:
    """It hangs up while the second engine is still silent."""
    async with two_engines(Fault("reset", after=3)) as (_, second, router):
        async with httpx.AsyncClient() as http:
            await http.post(f"{second.url}/stand_in/fault", json={"kind": "never"})
        body = {"messages": [{"role": "user", "content": MESSAGE}], "stream": True}
        request = asyncio.create_task(router.http.post("/v1/chat/completions", json=body))
        await eventually(lambda: len(second.running) > 0 or second.counters.num_requests > 4)
        request.cancel()
