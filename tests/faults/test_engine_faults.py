"""Engines that misbehave on the wire: another one makes it good, or one clear error; nothing leaks.

What an engine does inside valid HTTP and SSE (breaking off, error events, statuses) is in
`tests/test_router.py` and `tests/test_failover.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.stand_in import Connection, Fault, Options, StandInEngine
from tests.faults.support import (
    ANSWER,
    FAST,
    MESSAGE,
    SSE,
    TRACE,
    Play,
    PlayedEngine,
    chunk,
    faultless_after,
    recorded,
    sending,
    until_closed,
)
from tests.support import RunningRouter, eventually

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
END = b"0\r\n\r\n"


def endless(piece: bytes, num_mib: int, head: bytes = b"") -> Play:
    """`head`, then `piece` again and again, as fast as it is taken, until cut or `num_mib`."""

    async def play(transport: asyncio.Transport) -> None:
        transport.write(head)
        block = piece * max(1, (1 << 18) // len(piece))
        for _ in range(num_mib * 4):
            if transport.is_closing():
                return
            transport.write(block)
            await eventually(
                lambda: transport.is_closing() or transport.get_write_buffer_size() < 1 << 20
            )
        await until_closed(transport)

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
    "garbage events": sending(SSE, chunk(b"data: \x00\xff\xfe{[\n\ndata: ]\n\n"), END),
    "text that is not UTF-8": sending(
        SSE,
        chunk(b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'),
        END,
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
ANSWERS: dict[str, Play] = {
    "no content": sending(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "elsewhere": sending(
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"
    ),
    "another protocol": sending(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    ),
}
"""Odd, but answers: the request may be their reason, so nobody else is asked."""
ENDLESS_HEADERS = endless(b"x-filler: " + b"y" * 1000 + b"\r\n", 40, b"HTTP/1.1 200 OK\r\n")


@contextlib.asynccontextmanager
async def behind_router(
    play: Play, *others: StandInEngine, **settings: Any
) -> AsyncIterator[tuple[PlayedEngine, RunningRouter]]:
    """The engine answers well until the router knows what it serves."""
    async with (
        PlayedEngine() as engine,
        faultless_after(
            engine, *others, idle_timeout_s=1, balancing="round_robin", **settings
        ) as router,
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
async def test_alone_it_ends_with_one_clear_error(stream: bool) -> None:
    """A status or an error event, in OpenAI's shape; the router lives on and serves again."""
    async with behind_router(sending()) as (engine, router):
        for name, play in (FAULTS | ANSWERS).items():
            engine.play, num_played = play, engine.num_played
            error = await ask(router, stream)
            assert error is not None, name
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["type"] == "server_error"
            assert error["code"] in ("engine_error", "engine_timeout"), (name, error)
            assert engine.num_played > num_played, name
            engine.play = None
            await eventually(lambda: bool(router.router.replicas.ready))
            assert await ask(router, stream) is None, name


@pytest.mark.parametrize("stream", [True, False])
async def test_beside_another_it_costs_nothing(stream: bool) -> None:
    """Every request is served, those that the faulty engine gets too."""
    async with (
        StandInEngine(Options(**FAST)) as other,
        behind_router(sending(), other) as (engine, router),
    ):
        for name, play in FAULTS.items():
            await eventually(lambda: len(router.router.replicas.ready) == 2)
            engine.play, num_played = play, engine.num_played
            for _ in range(2):  # one each
                assert await ask(router, stream) is None, name
            assert engine.num_played > num_played, name
            engine.play = None
            for _ in range(2):  # a good reply, or failures in a row would put it out
                assert await ask(router, stream) is None, name


async def test_bytes_that_drip_make_a_right_reply() -> None:
    """One a packet, headers and framing too."""
    reply = await recorded()
    async with behind_router(sending(*(bytes([byte]) for byte in reply))) as (engine, router):
        assert await ask(router, stream=True) is None
        assert engine.num_played == 1


async def test_a_body_may_end_with_its_connection() -> None:
    """Neither a length nor chunks: proxies of HTTP/1.0 do so (RFC 9112, section 6.3)."""
    body = b"".join(re.findall(rb"data: .*\n\n", await recorded()))
    head = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    async with behind_router(sending(head, body, then="close")) as (_, router):
        for stream in (True, False):
            assert await ask(router, stream) is None


async def test_interim_replies_are_skipped() -> None:
    """A client must be able to take them unasked (RFC 9110, section 15.2)."""
    reply = await recorded()
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    for parts in ((early + reply,), (early, reply)):
        async with behind_router(sending(*parts)) as (_, router):
            assert await ask(router, stream=True) is None


async def test_headers_without_an_end_are_given_up() -> None:
    async with behind_router(ENDLESS_HEADERS) as (_, router):
        error = await ask(router, stream=True)
        assert error is not None
        assert "header" in error["message"]


@pytest.mark.parametrize("size", [1_000, 60_000])
async def test_large_headers_are_taken(size: int) -> None:
    reply = await recorded()
    large = reply.replace(b"\r\n", b"\r\nx-large: " + b"y" * size + b"\r\n", 1)
    async with behind_router(sending(large)) as (_, router):
        assert await ask(router, stream=True) is None


@pytest.mark.parametrize("status", [500, 503])
async def test_a_burst_of_refusals_passes(status: int) -> None:
    """Some requests are told, then all is as before; beside another engine a 503 is not seen."""
    async with StandInEngine(Options(**FAST)) as engine, faultless_after(engine) as router:
        engine.arm(Fault("status", status=status, times=3))
        errors = [await ask(router, stream=True) for _ in range(3)]
        assert {error["code"] for error in errors if error} == {
            "engine_error" if status == 500 else "engine_not_ready"
        }
        assert await ask(router, stream=True) is None
    if status == 503:
        async with (
            StandInEngine(Options(**FAST)) as engine,
            StandInEngine(Options(**FAST)) as other,
            faultless_after(engine, other) as router,
        ):
            engine.arm(Fault("status", status=status, times=3))
            other.arm(Fault("status", status=status, times=3))
            errors = await asyncio.gather(*(ask(router, stream=True) for _ in range(20)))
            assert sum(error is not None for error in errors) <= 2


async def test_a_connection_that_closes_as_a_request_is_sent_on_it() -> None:
    """The engine hangs up right after each reply, and later by ever so little: whenever it does, no
    request may be lost to it, since none has been begun."""
    reply = await recorded()
    delays_s = iter([0.0005 * (i % 20) for i in range(1000)])

    async def play(transport: asyncio.Transport) -> None:
        transport.write(reply)
        await asyncio.sleep(next(delays_s))
        transport.close()

    async def client(router: RunningRouter, number: int) -> None:
        for i in range(25):
            assert await ask(router, stream=bool(i % 2)) is None
            await asyncio.sleep(0.0004 * ((i + number) % 23))

    async with behind_router(play) as (engine, router):
        await asyncio.gather(*(client(router, number) for number in range(8)))
        assert engine.num_played >= 200


async def test_an_engine_that_restarts_on_its_port_is_used_again() -> None:
    """Its old connections are dead, whatever the pool thinks of them."""
    async with StandInEngine(Options(**FAST)) as engine, faultless_after(engine) as router:
        (replica,) = router.router.replicas.replicas
        for _ in range(3):
            assert await ask(router, stream=True) is None
            await engine.stop()
            await engine.start()
            replica.probed = False  # a probe that met nobody may still be about to say so
            await eventually(lambda: replica.probed and replica.ready)
            errors = [await ask(router, stream=False) for _ in range(5)]
            assert errors[1:] == [None] * 4


async def test_an_engine_whose_probes_turn_to_garbage_comes_back() -> None:
    """Bytes that can't be read don't end the probing."""

    class Mad(StandInEngine):
        garbage: bytes | None = None

        def handle(self, connection: Connection, method: str, path: str, data: bytes) -> None:
            if self.garbage is None:
                super().handle(connection, method, path, data)
            else:
                connection.reply(200, self.garbage)

    replies = [b"\xff\xfe", b'{"data":[{"id":"\xff"}]}', b"[" * 100_000, b'{"data":[]}', b""]
    async with Mad(Options(**FAST)) as engine, faultless_after(engine) as router:
        (replica,) = router.router.replicas.replicas
        for garbage in replies:
            await engine.stop()
            await eventually(lambda: not replica.ready)
            engine.garbage = garbage
            await engine.start()
            await eventually(lambda: "connection" not in replica.last_error)
            engine.garbage = None
            await eventually(lambda: replica.ready)
            assert await ask(router, stream=False) is None


async def test_a_reply_that_nobody_asked_for_costs_the_connection() -> None:
    """Two replies to one request: the next requests must not share a connection, nor be answered
    with what was left."""
    reply = await recorded()
    async with behind_router(sending(reply + reply)) as (engine, router):
        assert await ask(router, stream=True) is None
        client = router.router.replicas.replicas[0].client
        assert client.num_connections == 0
        engine.play = None
        assert await asyncio.gather(*(ask(router, stream=True) for _ in range(4))) == [None] * 4
