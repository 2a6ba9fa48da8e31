"""Engines that misbehave on the wire: made good by another one, else one clear error; nothing leaks.

What an engine does inside valid HTTP and SSE (breaking off, error events, statuses) is in
`tests/test_router.py` and `tests/test_failover.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from tests.faults.support import (
    ANSWER,
    FAST,
    MESSAGE,
    TRACE,
    PlayedEngine,
    Play,
    faultless_after,
    recorded,
    sending,
)
from tests.support import RunningRouter, eventually

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def endless(piece: bytes, num_mib: int, head: bytes = b"") -> Play:
    """`head`, then `piece` again and again, as fast as it is taken, until cut or `num_mib`."""

    async def play(transport: asyncio.Transport) -> None:
        transport.write(head)
        block = piece * max(1, (1 << 18) // len(piece))
        for _ in range(num_mib * 4):
            if transport.is_closing():
                return
            transport.write(block)
            while transport.get_write_buffer_size() > 1 << 20 and not transport.is_closing():
                await asyncio.sleep(0.001)
        while not transport.is_closing():
            await asyncio.sleep(0.01)

    return play


FAULTS: dict[str, Play] = {
    "reset before a byte": sending(then="reset"),
    "closed before a byte": sending(then="close"),
    "half-closed before a byte": sending(then="eof"),
    "headers, then closed": sending(SSE, then="close"),
    "headers cut": sending(SSE[:40], then="close"),
    "never answers": sending(then="hold"),
    "headers, then silence": sending(SSE, then="hold"),
    "an event, then silence": sending(SSE, chunk(b'data: {"choices":[]}\n\n'), then="hold"),
    "a page": sending(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<h1>It works!</"
    ),
    "nothing": sending(JSON + b"content-length: 0\r\n\r\n"),
    "an empty stream": sending(SSE + END),
    "no content": sending(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "elsewhere": sending(
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"
    ),
    "another protocol": sending(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    ),
    "garbage events": sending(SSE, chunk(b"data: \x00\xff\xfe{[\n\ndata: ]\n\n"), END),
    "text that is not UTF-8": sending(
        SSE, chunk(b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'), END
    ),
    "half an event": sending(SSE, chunk(b'data: {"choices":[{"ind'), END),
    "truncated JSON": sending(SSE, chunk(b'data: {"choices":[{"index":0,"del\n\n'), END),
    "wrong types": sending(SSE, chunk(b'data: {"choices":[{"index":"a","delta":7}]}\n\n'), END),
    "impossible token ids": sending(SSE, chunk(b'data: {"prompt_token_ids":[-1]}\n\n'), END),
    "a choice nobody asked for": sending(
        SSE, chunk(b'data: {"choices":[{"index":9,"delta":{"content":"x"}}]}\n\n'), END
    ),
    "nested too deeply": sending(SSE, chunk(b'data: {"x":' + b"[" * 100_000 + b"\n\n"), END),
    "not HTTP": sending(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "no such status": sending(b"HTTP/1.1 abc\r\n\r\n"),
    "a header without a name": sending(b"HTTP/1.1 200 OK\r\n: x\r\n\r\n"),
    "two framings": sending(
        JSON + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": sending(JSON + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
    "a chunk shorter than it says": sending(SSE, b"ffff\r\ndata: {}\n\n", then="close"),
    "a chunk longer than it says": sending(SSE, b"2\r\ndata: {}\n\n\r\n"),
    "a chunk without a size": sending(SSE, b"zz\r\ndata: {}\n\n\r\n"),
    "a chunk of a negative size": sending(SSE, b"-2\r\ndata: {}\n\n\r\n"),
    "a chunk beyond counting": sending(SSE, b"f" * 40 + b"\r\ndata: {}\n\n\r\n"),
    "a body shorter than it says": sending(
        JSON + b'content-length: 99\r\n\r\n{"choices":[]}', then="close"
    ),
    "a body longer than it says": sending(JSON + b'content-length: 2\r\n\r\n{"choices":[]}'),
    "an event without an end": endless(b"x" * 65_500, 40, SSE + b"10000000\r\ndata: "),
}
ENDLESS_HEADERS = endless(b"x-filler: " + b"y" * 1000 + b"\r\n", 40, b"HTTP/1.1 200 OK\r\n")
"""A fault of its own: see the test."""


@contextlib.asynccontextmanager
async def behind_router(
    play: Play, *others: StandInEngine, **settings: Any
) -> AsyncIterator[tuple[PlayedEngine, RunningRouter]]:
    """The engine answers well until the router knows what it serves."""
    async with (
        PlayedEngine() as engine,
        faultless_after(engine, *others, idle_timeout_s=0.5, **settings) as router,
    ):
        engine.play = play
        yield engine, router


async def ask(router: RunningRouter, stream: bool) -> dict[str, Any] | None:
    """The error with which a chat ends, however it comes; None for a right reply."""
    response = await router.chat(MESSAGE, stream=stream)
    if response.status_code != 200 or not stream:
        reply = response.json()
        if response.status_code == 200:
            message = reply["choices"][0]["message"]
            assert (message["reasoning"], message["content"]) == (TRACE, ANSWER)
            return None
        assert response.status_code in (502, 503, 504), response.text
        return dict(reply["error"])
    *events, last = [line[6:] for line in response.text.split("\n\n") if line]
    assert not any('"error"' in event for event in events)
    if last == "[DONE]":
        assert joined(events, "reasoning") == TRACE
        assert joined(events, "content") == ANSWER
        return None
    return dict(json.loads(last)["error"])


def joined(events: list[str], field: str) -> str:
    deltas = [c["delta"] for e in events for c in json.loads(e)["choices"]]
    return "".join(delta.get(field) or "" for delta in deltas)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", FAULTS)
async def test_alone_it_ends_with_one_clear_error(name: str, stream: bool) -> None:
    """A status or an error event, in OpenAI's shape; the router lives on and serves again."""
    async with behind_router(FAULTS[name]) as (engine, router):
        error = await ask(router, stream)
        assert error is not None
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "server_error"
        assert error["code"] in ("engine_error", "engine_timeout", "engine_not_ready"), error
        assert engine.num_played >= 1
        engine.play = None
        await eventually(lambda: bool(router.router.replicas.ready))
        assert await ask(router, stream) is None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", FAULTS)
async def test_beside_another_it_costs_nothing(name: str, stream: bool) -> None:
    """Every request is served, the faulty engine's too."""
    async with (
        StandInEngine(Options(**FAST)) as other,
        behind_router(FAULTS[name], other) as (engine, router),
    ):
        for _ in range(50):
            assert await ask(router, stream) is None
            if engine.num_played:
                return
        pytest.fail("the faulty engine was never asked")
