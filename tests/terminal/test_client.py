"""Replies as they come from a router, and servers that don't give any."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stand_in import Fault, StandInEngine
from benchmarks.stand_in import Options as Scripted
from serve.engine_process import free_port
from serve.sse import DONE_EVENT, encode
from serve.terminal.client import ChatError, Client
from serve.terminal.conversation import Conversation, Exchange, request_body
from serve.terminal.options import Options
from serve.terminal.reply import Piece, Reply
from tests.support import RunningRouter, eventually, running_router
from tests.test_router_admission import guarded, make_key

FAST = Scripted(step_ms=0.2, prefill_ms=0, think_tokens=12, answer_tokens=6)
ENDLESS = Scripted(step_ms=5, think_tokens=20000)


@contextlib.asynccontextmanager
async def serving(
    script: Scripted, **router: Any
) -> AsyncIterator[tuple[StandInEngine, RunningRouter]]:
    async with StandInEngine(script) as engine, running_router(engine.url, **router) as running:
        yield engine, running


@contextlib.asynccontextmanager
async def asking(url: str, key: str | None = None) -> AsyncIterator[Client]:
    client = Client(url, key)
    yield client
    client.close()


def body(**options: Any) -> bytes:
    return request_body(Conversation("", 0, [Exchange("1+1")]), Options(**options))


def ignore(pieces: list[Piece]) -> None:
    pass


async def refusal(client: Client, **options: Any) -> str:
    with pytest.raises(ChatError) as caught:
        await client.chat(body(**options), Reply(0.0), ignore)
    return str(caught.value)


async def test_a_reply_is_shown_as_it_comes_and_its_figures_are_exact() -> None:
    shown: list[Piece] = []
    async with serving(FAST) as (_, router), asking(f"{router.url}/v1/") as client:
        reply = Reply(0.0)
        await client.chat(body(preset="math"), reply, shown.extend)
    assert "".join(it.text for it in shown if it.kind == "thinking") == reply.thinking
    assert "".join(it.text for it in shown if it.kind == "answer") == reply.answer
    assert reply.done
    assert reply.usage is not None
    assert (reply.usage.num_thinking, reply.preset, reply.finish) == (12, "math", "stop")
    assert reply.budget_tokens is not None


async def test_what_the_server_has_is_known() -> None:
    async with serving(FAST) as (_, router), asking(router.url) as client:
        known = await client.known()
        assert (known.default, known.efforts[0]) == ("chat", "none")
        assert known.presets["math"].startswith("Mathematics")
        assert (await client.models())[:2] == ["stand-in", "stand-in:chat"]
        await client.check_model("stand-in:math")
        with pytest.raises(ChatError, match="unknown model `你 好`; served here: stand-in"):
            await client.check_model("你 好")


async def test_leaving_ends_the_work_on_the_engine() -> None:
    async with serving(ENDLESS) as (engine, router), asking(router.url) as client:
        reply = Reply(0.0)
        task = asyncio.create_task(client.chat(body(), reply, ignore))
        await eventually(lambda: bool(reply.thinking))
        task.cancel()
        await asyncio.wait({task})
        await eventually(lambda: engine.counters.aborted == 1)
    assert task.cancelled()


async def test_an_engine_that_fails_in_mid_stream_is_told() -> None:
    """In the router's words."""
    async with serving(FAST) as (engine, router), asking(router.url) as client:
        engine.arm(Fault("error", after=5))
        assert "the engine" in await refusal(client)


async def test_keys_are_sent_and_their_variable_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("")
    key = make_key(path, "alice")
    async with StandInEngine(FAST) as engine, guarded(engine, path) as router:
        async with asking(router.url) as client:
            told = await refusal(client)
            assert told == f"the server at {router.url} wants a key: put yours into R1_API_KEY"
        async with asking(router.url, "wrong") as client:
            with pytest.raises(ChatError, match="doesn't take the key in R1_API_KEY: "):
                await client.known()
        async with asking(router.url, key) as client:
            await client.chat(body(), Reply(0.0), ignore)


async def test_a_full_server_says_when_to_come_back() -> None:
    limits = {"max_in_flight": 1, "max_queued": 0}
    async with serving(ENDLESS, **limits) as (_, router), asking(router.url) as client:
        before = asyncio.create_task(router.stream())
        await eventually(lambda: router.router.gate.num_in_flight == 1)
        with pytest.raises(ChatError, match="it keeps a place for this") as caught:
            await client.chat(body(), Reply(0.0), ignore)
        assert (caught.value.retry_after_s or 0) > 0
        before.cancel()


# ---- servers of any kind ----


@contextlib.asynccontextmanager
async def playing(*replies: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers one request per connection with each of these, and all it was sent."""
    requests: list[bytes] = []
    left = list(replies)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
        writer.write(left.pop(0))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", requests


def http(status: str, content: bytes = b"", *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 %b" % status.encode(), *headers, b"content-length: %d" % len(content))
    return b"\r\n".join((*lines, b"", content))


STREAM = encode(b'{"choices": [{"delta": {"content": "2"}}]}')


async def test_who_is_put_off_comes_back_with_the_same_bytes() -> None:
    """As often as it is told, at the time that it is told exactly."""
    waits: list[float] = []

    async def put_off(why: ChatError, wait_s: float) -> None:
        waits.append(wait_s)

    replies = (
        http("429 x", b"", b"retry-after: 9", b"retry-after-ms: 8500"),
        http("503 x", b"", b"retry-after: 2"),
        http("200 OK", STREAM + DONE_EVENT),
    )
    async with playing(*replies) as (url, requests), asking(url) as client:
        reply = Reply(0.0)
        await client.chat_when_told(body(votes=2), reply, ignore, put_off)
    assert waits == [8.5, 2.0]
    assert requests[0] == requests[1] == requests[2]
    assert requests[0].endswith(body(votes=2))
    assert reply.answer == "2"
    assert reply.asked_s > 0


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (http("503 x"), "answers 503 to /v1/chat/completions"),
        (http("500 x", b"oops", b"retry-after: 1"), "answers 500"),
        (http("200 OK", STREAM), "broke off in the middle"),
        (http("200 OK", b"<html>"), "broke off in the middle"),
        (http("200 OK", encode(b"<html>")), "can't be read"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n" + STREAM, "broke off"),
        (b"", "broke off"),
    ],
)
async def test_other_replies_are_told(reply: bytes, words: str) -> None:
    """And nobody comes back by itself."""

    async def put_off(why: ChatError, wait_s: float) -> None:
        pytest.fail("nobody was put off")

    async with playing(reply) as (url, _), asking(url) as client:
        with pytest.raises(ChatError, match=words):
            await client.chat_when_told(body(), Reply(0.0), ignore, put_off)


@pytest.mark.parametrize("reply", [http("404 x"), http("200 OK", b"{}"), http("200 OK", b"<a>")])
async def test_another_kind_of_server_is_told(reply: bytes) -> None:
    async with playing(reply) as (url, _), asking(url) as client:
        with pytest.raises(ChatError, match="/v1/presets"):
            await client.known()


async def test_where_nothing_answers_it_is_said_what_starts_a_server() -> None:
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    async with asking(url) as client:
        told = await refusal(client)
    assert told.startswith(f"nothing answers at {url} (")
    assert "`make serve` or `r1-serve up` starts a server" in told
