"""Two real vLLM engines behind `r1-serve up`; one is killed while both generate."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo_model.problems import held_out_problems
from serve.tokenizer import num_whole
from tests.conftest import ENGINE_READY_S, Program, RunningEngine
from tests.stack import command_of
from tests.support import eventually, gone, running_router

pytestmark = pytest.mark.engine

NUM_STREAMS = 32


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Two engines and the router on free ports; `stack.url` is the router's."""
    yield from two_engines(tmp_path_factory.mktemp("stack"))


def two_engines(directory: Path, more: str = "") -> Iterator[Program]:
    """Ready; `more` is what else the settings say of engines. They start sooner uncompiled."""
    config = directory / "two.toml"
    settings = "port = 0\nnum_replicas = 2\nenforce_eager = true\n"
    config.write_text(f'base = "cpu"\n[engine]\n{settings}{more}')
    program = Program("up", "--config", str(config), "--port", "0")
    try:
        program.wait_for("Serving r1-demo at ", ENGINE_READY_S)
        yield program
    finally:
        program.close()


def url_of(stack: Program) -> str:
    (line,) = [line for line in stack.lines if "Serving r1-demo at " in line]
    return line.partition(" at ")[2].split()[0]


def engines_of(stack: Program) -> list[psutil.Process]:
    """The vLLM servers, by the port that each was told."""
    children = psutil.Process(stack.process.pid).children(recursive=True)
    servers = [p for p in children if "vllm.entrypoints" in command_of(p)]
    return [p for p in servers if p.parent() and p.parent() not in servers]


async def solve_all(
    http: httpx.AsyncClient,
    questions: list[str],
    when_all_began: Callable[[], Awaitable[None]] | None = None,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Every question at once, streaming, at temperature 0."""
    num_begun = 0

    async def solve(question: str) -> dict[str, Any]:
        nonlocal num_begun
        body = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        said: dict[str, Any] = {"reasoning": "", "content": "", "finish": [], "r1": None}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if not line or line == "data: [DONE]":
                    said["done"] = said.get("done", False) or bool(line)
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                said["r1"] = chunk.get("r1") or said["r1"]
                said["usage"] = chunk.get("usage")
                silent = not said["reasoning"]
                for choice in chunk["choices"]:
                    for field in ("reasoning", "content"):
                        said[field] += choice["delta"].get(field) or ""
                    said["finish"] += [choice["finish_reason"]] * bool(choice["finish_reason"])
                if silent and said["reasoning"]:
                    num_begun += 1
                    if num_begun == len(questions) and when_all_began:
                        await when_all_began()
        return said

    return await asyncio.gather(*map(solve, questions))


async def the_busier(http: httpx.AsyncClient, stack: Program) -> psutil.Process:
    """On a busy machine an engine may be done before the other has begun."""
    metrics = (await http.get("/metrics")).text
    in_flight = re.findall(
        r'^r1_replica_in_flight{replica="\S+:(\d+)"} (\S+)$', metrics, re.MULTILINE
    )
    port, _ = max(in_flight, key=lambda it: float(it[1]))
    (server,) = [it for it in engines_of(stack) if port in it.cmdline()]
    return server


async def kill_the_busier(http: httpx.AsyncClient, stack: Program) -> None:
    (await the_busier(http, stack)).kill()


async def both_ready(http: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + ENGINE_READY_S
    while (await http.get("/ready")).json().get("replicas_ready") != 2:
        assert time.monotonic() < deadline, "an engine didn't come back"
        await asyncio.sleep(0.2)


async def a_kill_costs_no_stream(
    http: httpx.AsyncClient, stack: Program, kill: Callable[[], Awaitable[None]]
) -> None:
    """64 streams on two engines, one killed: 64 complete, with the text of an undisturbed run and
    no token more or less, and the engine comes back and gets work again."""
    questions = [p.question for p in held_out_problems("addition", NUM_STREAMS, seed=20261123)]
    await both_ready(http)
    calm = await solve_all(http, questions)
    # Half of them end when the model does, as the calm ones did. It talks on in the others,
    # nonsense that differs from batch to batch: so the engine has work when it is killed.
    stormy, longer = await asyncio.gather(
        solve_all(http, questions, when_all_began=kill),
        solve_all(http, questions, ignore_eos=True, max_tokens=400),
    )
    for before, after in zip(calm, stormy, strict=True):
        assert after["finish"] == ["stop"]
        assert after["done"]
        for field in ("reasoning", "content"):
            assert after[field] == before[field]
        for count in ("prompt_tokens", "completion_tokens", "completion_tokens_details"):
            assert after["usage"][count] == before["usage"][count]
    for before, after in zip(calm, longer, strict=True):
        assert after["finish"] == ["length"]
        assert after["done"]
        assert after["reasoning"] == before["reasoning"]
        assert after["content"].startswith(before["content"])
        assert after["usage"]["completion_tokens"] == 400
    moved = [said for said in (*stormy, *longer) if said["r1"]]
    assert moved, f"no stream was on the engine that was killed:\n{stack.log()}"
    assert all(said["r1"] == {"failovers": 1} for said in moved)
    await both_ready(http)
    again = await solve_all(http, questions)
    assert [said["content"] for said in again] == [said["content"] for said in calm]
    for server in engines_of(stack):
        port = server.cmdline()[server.cmdline().index("--port") + 1]
        host = server.cmdline()[server.cmdline().index("--host") + 1]
        metrics = (await http.get(f"http://{host}:{port}/metrics")).text
        requests = re.findall(r'request_success_total{.*"stop".*} (\S+)', metrics)
        assert sum(map(float, requests)) >= NUM_STREAMS / 4, "an engine got no work"


async def test_a_killed_engine_costs_no_stream(stack: Program) -> None:
    """`kill -9`."""
    async with httpx.AsyncClient(base_url=url_of(stack), timeout=120) as http:
        await a_kill_costs_no_stream(http, stack, functools.partial(kill_the_busier, http, stack))


async def test_a_reply_goes_on_from_its_last_whole_character(engine: RunningEngine) -> None:
    """Wherever an engine was cut off, inside a character above all: at most three ids are lost."""
    text = "a 🙂 b 你好 c"
    async with running_router(engine.url) as router:
        replicas = router.router.replicas
        asked = {"model": engine.model, "prompt": text, "add_special_tokens": False}
        ids = json.loads(await replicas.call(engine.model, "/tokenize", asked))["tokens"]
        for cut in range(1, len(ids) + 1):
            kept = await num_whole(replicas, engine.model, ids[:cut])
            asked = {"model": engine.model, "tokens": ids[:kept]}
            said = json.loads(await replicas.call(engine.model, "/detokenize", asked))["prompt"]
            assert text.startswith(said)
            assert cut - 3 <= kept <= cut
        assert kept == len(ids)


async def test_a_rolling_restart_costs_no_request(stack: Program) -> None:
    """Both engines are replaced one after the other under load, which leaves them the time to
    start: no request fails."""
    old = engines_of(stack)
    questions = itertools.cycle(p.question for p in held_out_problems("word", 200, seed=20261124))
    async with httpx.AsyncClient(base_url=url_of(stack), timeout=120) as http:
        stack.process.send_signal(signal.SIGUSR1)
        restarted = asyncio.create_task(
            asyncio.to_thread(stack.wait_for, "All engines are restarted", 2 * ENGINE_READY_S)
        )
        num_solved = 0
        while not restarted.done():
            batch = await solve_all(http, [next(questions) for _ in range(4)])
            assert all(said["finish"] == ["stop"] and said["done"] for said in batch)
            num_solved += len(batch)
            await asyncio.wait({restarted}, timeout=1)
        await restarted
        assert num_solved >= 16
        assert not any(server.is_running() for server in old)
        assert len(engines_of(stack)) == 2
        await both_ready(http)


async def test_a_killed_engine_costs_no_vote_and_no_recovery(stack: Program) -> None:
    """Votes and replies whose traces are closed early, at once, while an engine is `kill -9`ed: all
    come to an answer, and some were moved."""
    questions = [p.question for p in held_out_problems("addition", 12, seed=20261125)]
    async with httpx.AsyncClient(base_url=url_of(stack), timeout=120) as http:
        await both_ready(http)
        num_done = 0

        async def solve(question: str, **fields: Any) -> Any:
            nonlocal num_done
            body = {"messages": [{"role": "user", "content": question}], "preset": "math"}
            response = await http.post("/v1/chat/completions", json=body | fields)
            assert response.status_code == 200, response.text
            num_done += 1
            if num_done == 4:
                await kill_the_busier(http, stack)
            return response.json()

        asked = [solve(question, votes=4, temperature=0.8) for question in questions]
        asked += [solve(question, thinking_token_budget=30) for question in questions]
        replies = await asyncio.gather(*asked)
        for reply in replies:
            assert "\\boxed{" in reply["choices"][0]["message"]["content"]
        assert any("failovers" in reply["r1"] for reply in replies), "nothing was on the victim"


async def test_a_stopped_router_finishes_its_streams(stack: Program) -> None:
    """SIGTERM to the whole stack under load, while an engine starts again: every open stream ends
    whole, the status is 0, no process is left."""
    processes = psutil.Process(stack.process.pid).children(recursive=True)
    questions = [p.question for p in held_out_problems("addition", NUM_STREAMS, seed=20261125)]
    async with httpx.AsyncClient(base_url=url_of(stack), timeout=120) as http:
        stop = functools.partial(asyncio.to_thread, stack.process.terminate)
        said = await solve_all(http, questions, when_all_began=stop)
        assert all(it["finish"] == ["stop"] and it["done"] for it in said)
    assert await asyncio.to_thread(stack.process.wait, 60) == 0
    await eventually(lambda: gone(processes), within_s=5)
