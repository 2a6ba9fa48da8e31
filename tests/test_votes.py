"""Votes over the running router: the majority's reply, early stops, slots, failures, streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from tests.support import RunningRouter, eventually, running_router
from tests.test_failover import joined, no_trace_left

FAST: dict[str, Any] = {"step_ms": 0.2, "prefill_ms": 0}


def sample(answer: str, think: int | str = 20, **script: Any) -> dict[str, Any]:
    return {"think": think, "answer": f"\n\nIt is \\boxed{{{answer}}}.", **script}


def voting(*samples: dict[str, Any]) -> str:
    """One script per sample: the stand-in picks by seed, and sample i of seed 0 has seed i."""
    return "script:" + json.dumps({"choices": samples})


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(**FAST)) as engine:
        yield engine


@pytest.fixture
async def router(engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router
        await no_trace_left(router, engine)


async def vote(router: RunningRouter, text: str, votes: Any = 5, **fields: Any) -> dict[str, Any]:
    fields = {"preset": "math", "seed": 0, "votes": votes} | fields
    reply = await router.chat(text, **fields)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def test_the_majority_is_the_reply(engine: StandInEngine, router: RunningRouter) -> None:
    """Equal answers count together however they are written; the shortest trace speaks for them;
    usage is everything that was spent."""
    text = voting(sample("3"), sample("0.5"), sample("1/2", 12), sample("4"), sample("\\frac12"))
    one = (await router.chat(text, preset="math", seed=0)).json()
    reply = await vote(router, text)
    assert reply["choices"][0]["message"]["content"] == "It is \\boxed{1/2}."
    assert len(reply["choices"]) == 1
    votes = reply["r1"]["votes"]
    assert votes["n"] == 5
    assert votes["share"] == votes["answers"][0]["count"] / votes["counted"]
    assert votes["answers"][0]["count"] >= 2
    bodies = [r["body"] for r in engine.requests if "completions" in r["path"]]
    seeds = [body["seed"] for body in bodies if "seed" in body][1:]
    assert sorted(seeds) == list(range(len(seeds)))
    assert reply["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert reply["usage"]["completion_tokens"] > 3 * one["usage"]["completion_tokens"]


async def test_no_more_samples_than_could_decide_it(
    engine: StandInEngine, router: RunningRouter
) -> None:
    """Four of eight agree: the others are never started."""
    before = engine.counters.num_requests
    reply = await vote(router, voting(sample("1")), 8)
    assert reply["r1"]["votes"]["counted"] == 4
    assert engine.counters.num_requests - before == 4


async def test_a_straggler_is_not_waited_for(engine: StandInEngine, router: RunningRouter) -> None:
    """Another sample takes its turn, and the engine is told to stop once it is decided."""
    before = engine.counters.aborted
    on_and_on = "".join(f"{i}," for i in range(4000))
    samples = [sample("2", on_and_on), *[sample("1")] * 5]
    reply = await vote(router, voting(*samples), 6)
    assert reply["choices"][0]["message"]["content"] == "It is \\boxed{1}."
    assert reply["r1"]["votes"]["answers"] == [{"answer": "1", "count": 3}]
    await no_trace_left(router, engine)
    assert engine.counters.aborted - before == 1


async def test_the_first_k_to_agree_end_it(engine: StandInEngine, router: RunningRouter) -> None:
    before = engine.counters.num_requests
    text = voting(sample("1"), sample("2"), sample("1"), sample("3"))
    reply = await vote(router, text, {"n": 4, "strategy": "first_k", "k": 2})
    assert reply["choices"][0]["message"]["content"] == "It is \\boxed{1}."
    assert reply["r1"]["votes"]["strategy"] == "first_k"
    assert engine.counters.num_requests - before == 3


async def test_a_stream_tells_how_it_stands_and_then_the_winner(router: RunningRouter) -> None:
    """Progress in comments, which every client skips; then what the whole reply says."""
    text = voting(sample("3"), sample("1"), sample("1"), sample("1"))
    whole = await vote(router, text, 4)
    options = {"include_usage": True}
    fields: dict[str, Any] = {"preset": "math", "seed": 0, "votes": 4, "stream_options": options}
    response = await router.chat(text, stream=True, **fields)
    lines = [line for line in response.text.split("\n\n") if line]
    reports = [json.loads(line.removeprefix(": r1.votes ")) for line in lines if line[0] == ":"]
    assert [report["counted"] for report in reports] == [1, 2, 3, 4][: len(reports)]
    assert len(reports) >= 2
    events = [json.loads(line[6:]) for line in lines if line[0] != ":" and line[6:] != "[DONE]"]
    assert lines[-1] == "data: [DONE]"
    message = whole["choices"][0]["message"]
    assert joined(events, "content") == message["content"]
    assert joined(events, "reasoning") == message["reasoning"]
    (note,) = [event["r1"] for event in events if "r1" in event]
    assert note["votes"]["answers"][0] == {"answer": "1", "count": 2}
    assert len([c for e in events for c in e["choices"] if c["finish_reason"]]) == 1
    assert {choice["index"] for event in events for choice in event["choices"]} == {0}
    assert events[-1]["usage"]["completion_tokens"] > 0


async def test_a_sample_that_gives_up_is_recovered_and_votes(router: RunningRouter) -> None:
    text = voting(sample("1", gives_up_after=5), sample("1", gives_up_after=4), sample("2"))
    reply = await vote(router, text, 3)
    assert reply["choices"][0]["message"]["content"] == "It is \\boxed{1}."
    assert reply["r1"]["recovered"] == "eos"


async def test_a_preset_may_vote(router: RunningRouter) -> None:
    """By itself; one vote, several choices or temperature 0 is a plain request."""
    text = voting(sample("1"))
    reply = (await router.chat(text, preset="vote", seed=0)).json()
    assert reply["r1"]["votes"]["counted"] == 4
    for fields in ({"votes": 1}, {"temperature": 0}, {"n": 2}):
        reply = (await router.chat(text, preset="vote", seed=0, **fields)).json()
        assert "votes" not in reply["r1"]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"votes": 0}, "votes", "between 1 and 64"),
        ({"votes": 65}, "votes", "between 1 and 64"),
        ({"votes": {"n": 3, "strateg": "x"}}, "votes.strateg", "did you mean `strategy`"),
        ({"votes": 3, "n": 2}, "n", "not both"),
        ({"votes": 3, "temperature": 0}, "temperature", "all samples are the same"),
        ({"votes": 3, "preset": "chat"}, "votes", "answer_form"),
        ({"votes": 3, "tools": [{"type": "function"}]}, "tools", "can't be counted"),
    ],
)
async def test_votes_that_cannot_be_are_refused(
    router: RunningRouter, fields: dict[str, Any], param: str, says: str
) -> None:
    response = await router.chat("hi", **{"preset": "math"} | fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert says in error["message"]


async def test_a_form_can_be_named(router: RunningRouter) -> None:
    """A chat preset has none; here the last fenced block is what counts."""
    code = [{"think": 5, "answer": f"\n\n```\n{text}\n```"} for text in ("a", "b", "b ", "b\n")]
    votes = {"n": 4, "answer_form": "code"}
    reply = await vote(router, voting(*code), votes, preset="chat")
    assert "b" in reply["choices"][0]["message"]["content"]
    assert reply["r1"]["votes"]["answers"][0]["count"] >= 2


async def test_no_sample_needs_more_slots_than_there_are(engine: StandInEngine) -> None:
    """With a single slot the samples run one after the other; with two, at most two at once; all
    slots are free again."""
    for num_slots in (1, 2):
        async with running_router(engine.url, max_in_flight=num_slots) as router:
            most = 0
            text = voting(*[sample(str(i)) for i in range(6)])
            task = asyncio.create_task(vote(router, text, 6))
            while not task.done():
                most = max(most, len(engine.running))
                await asyncio.sleep(0.001)
            assert most == num_slots
            assert (await task)["r1"]["votes"]["counted"] == 6
            await no_trace_left(router, engine)


async def test_who_waits_gets_the_next_slot(engine: StandInEngine) -> None:
    """A vote doesn't hold on to what it took: a newcomer gets in before it has ended."""
    async with running_router(engine.url, max_in_flight=4) as router:
        text = voting(*[sample(str(i), 60) for i in range(12)])
        voting_task = asyncio.create_task(vote(router, text, 12))
        await eventually(lambda: len(engine.running) == 4)
        assert (await router.chat("script:" + json.dumps(sample("1", 2)))).status_code == 200
        assert not voting_task.done()
        assert (await voting_task)["r1"]["votes"]["counted"] == 12


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_may_die_during_a_vote(stream: bool) -> None:
    """Its samples go on elsewhere."""
    slow = Options(step_ms=2, prefill_ms=0)
    text = voting(sample("1", 40), sample("2", 40), sample("1", 40), sample("1", 40))
    async with (
        StandInEngine(slow) as first,
        StandInEngine(slow) as second,
        running_router(first.url, second.url, balancing="round_robin") as router,
    ):

        async def kill() -> None:
            await eventually(lambda: first.generation_tokens > 30 and bool(first.running))
            await first.stop()

        killing = asyncio.create_task(kill())
        fields: dict[str, Any] = {"preset": "math", "seed": 0, "votes": 4}
        response = await router.chat(text, stream=stream, **fields)
        await killing
        if stream:
            assert response.text.rstrip().endswith("data: [DONE]"), response.text
            assert '"failovers":' in response.text
        else:
            reply = response.json()
            assert reply["choices"][0]["message"]["content"] == "It is \\boxed{1}."
            assert reply["r1"]["failovers"] >= 1
        await no_trace_left(router, second)


async def test_samples_that_fail_do_not_count(engine: StandInEngine, router: RunningRouter) -> None:
    """One bad sample is left out; when all fail, the reply is their error."""
    bad = sample("9", fault={"kind": "error", "after": 3})
    reply = await vote(router, voting(sample("1", 40), bad, sample("1", 40)), 3)
    assert reply["choices"][0]["message"]["content"] == "It is \\boxed{1}."
    assert reply["r1"]["votes"]["answers"] == [{"answer": "1", "count": 1}]
    response = await router.chat(voting(bad), preset="math", votes=3, seed=0)
    assert response.status_code == 502
    engine.arm(Fault("status", status=400))
    response = await router.chat(voting(bad), preset="math", votes=3)
    assert response.status_code == 400
    engine.arm(None)


async def test_a_client_that_leaves_ends_the_vote(
    engine: StandInEngine, router: RunningRouter
) -> None:
    text = voting(*[sample(str(i), 3000) for i in range(8)])
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "votes": 8}
    body |= {"preset": "math", "seed": 0}
    task = asyncio.create_task(router.http.post("/v1/chat/completions", json=body))
    await eventually(lambda: len(engine.running) == 4)
    task.cancel()
    await no_trace_left(router, engine)
    assert engine.counters.aborted == 4
