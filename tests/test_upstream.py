"""The engine client against a server that plays each awkward case byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from serve.connection import ConnectFailed
from serve.engine_reply import HIGH_WATER_BYTES, Reply
from serve.errors import (
    ContextLengthExceeded,
    EngineRejected,
    NotReady,
    UpstreamError,
    UpstreamTimeout,
)
from serve.upstream import EngineClient, EngineFailed, EngineStopping, refusal
from tests.support import eventually

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


@contextlib.asynccontextmanager
async def serving(handler: Handler, **client: float) -> AsyncIterator[EngineClient]:
    """A client of a server that runs `handler` for every connection."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    timeouts = {"connect_timeout_s": 5.0, "idle_timeout_s": 5.0} | client
    engine = EngineClient(f"http://127.0.0.1:{port}", **timeouts)
    try:
        yield engine
    finally:
        engine.close()
        await eventually(lambda: engine.num_connections == 0)
        server.close()


async def request_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*parts: bytes, times: int = 100) -> Handler:
    """Answers each request on a connection with `parts`, each in a write of its own."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(times):
                await request_head(reader)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    return handle


CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (OK + b"content-length: 5\r\n\r\nhello",),
        (OK + b"content-length: 5\r\n\r\n", b"hel", b"lo"),
        (CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n", b"0\r\n\r\n"),
        tuple(bytes([b]) for b in CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_bodies_of_every_framing(parts: tuple[bytes, ...]) -> None:
    """With a length, in chunks, byte by byte; the connection is used again."""
    async with serving(answering(*parts)) as engine:
        for _ in range(3):
            reply = await engine.request("GET", "/")
            assert (reply.status, await reply.read_all()) == (200, b"hello")
            assert reply.headers["content-type"] == "text/plain"
        assert engine.num_connections == 1


async def test_a_body_that_ends_with_its_connection() -> None:
    async with serving(answering(OK + b"connection: close\r\n\r\n", b"hello", times=1)) as engine:
        assert await (await engine.request("GET", "/")).read_all() == b"hello"


async def test_a_reply_that_breaks_off_is_an_error() -> None:
    """What came before can be read; then the break is told."""
    handler = answering(OK + b"content-length: 9\r\n\r\nhello", times=1)
    async with serving(handler) as engine:
        reply = await engine.request("GET", "/")
        assert await reply.read() == b"hello"
        with pytest.raises(UpstreamError, match="broke the connection off"):
            await reply.read()


async def test_bytes_that_are_not_http() -> None:
    async with serving(answering(b"SSH-2.0-OpenSSH\r\n\r\n")) as engine:
        with pytest.raises(UpstreamError, match="not valid HTTP"):
            await engine.request("GET", "/")


async def test_a_connection_closed_while_idle_is_replaced() -> None:
    """The engine closes after each reply without saying so: every request still succeeds."""
    handler = answering(OK + b"content-length: 2\r\n\r\nok", times=1)
    async with serving(handler) as engine:
        for _ in range(5):
            assert await (await engine.request("GET", "/")).read_all() == b"ok"


async def test_an_engine_that_is_not_there() -> None:
    engine = EngineClient("http://127.0.0.1:9", connect_timeout_s=1, idle_timeout_s=1)
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:9"):
        await engine.request("GET", "/")


async def test_closing_an_unfinished_reply_cuts_the_connection() -> None:
    """That is how an engine learns that nobody waits for the rest."""
    cut = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(CHUNKED + b"1\r\nx\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        cut.set()
        writer.close()

    async with serving(handle) as engine:
        reply = await engine.request("GET", "/")
        assert await reply.read() == b"x"
        reply.close()
        await asyncio.wait_for(cut.wait(), 5)
        with pytest.raises(UpstreamError, match="closed before its end"):
            await reply.read()


async def test_cancelling_a_request_cuts_the_connection() -> None:
    cut = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        cut.set()
        writer.close()

    async with serving(handle) as engine:
        request = asyncio.create_task(engine.request("GET", "/"))
        await eventually(lambda: engine.num_connections == 1)
        request.cancel()
        await asyncio.wait_for(cut.wait(), 5)


async def test_the_sweep_fails_silent_replies_and_drops_idle_connections() -> None:
    """Time is passed in: nothing waits."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(CHUNKED + b"1\r\nx\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with serving(handle, idle_timeout_s=30) as engine:
        reply = await engine.request("GET", "/")
        now_s = asyncio.get_running_loop().time()
        engine.sweep(now_s + 29)
        assert engine.num_connections == 1
        engine.sweep(now_s + 31)
        assert await reply.read() == b"x"
        with pytest.raises(UpstreamTimeout, match="silent for 30 s"):
            await reply.read()
    async with serving(answering(OK + b"content-length: 0\r\n\r\n")) as engine:
        await (await engine.request("GET", "/")).read_all()
        assert engine.num_connections == 1
        engine.sweep(asyncio.get_running_loop().time() + 5)
        await eventually(lambda: engine.num_connections == 0)


async def test_headers_alone_are_no_reply_yet_unless_they_refuse() -> None:
    """A good reply is handed out with its first bytes, or at its end; a bad one at once."""
    go_on = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refuses = b"/bad" in await request_head(reader)
        writer.write(CHUNKED.replace(b"200 OK", b"503 Busy") if refuses else CHUNKED)
        await go_on.wait()
        writer.write(b"1\r\nx\r\n0\r\n\r\n")
        writer.close()

    async with serving(handle) as engine:
        assert (await engine.request("GET", "/bad")).status == 503
        request = asyncio.create_task(engine.request("GET", "/"))
        await eventually(lambda: any(c.reply and c.reply.status == 200 for c in engine._open))
        await asyncio.sleep(0)
        assert not request.done()
        go_on.set()
        assert await (await request).read_all() == b"x"


@pytest.mark.parametrize("cut", range(1, len(CHUNKED) + 20))
async def test_a_sink_takes_all_of_a_body_however_it_is_cut(cut: int) -> None:
    """It comes with the request, so the body that arrives with the headers is its too; the reply is
    told of before, and the connection is used again."""
    whole = CHUNKED + b"2\r\nhe\r\n" + b"3\r\nllo\r\n" + b"0\r\n\r\n"
    async with serving(answering(whole[:cut], whole[cut:])) as engine:
        for _ in range(2):
            taken: list[bytes] = []
            held: list[Reply] = []

            def take(data: bytes, taken: list[bytes] = taken) -> bool:
                taken.append(data)
                return True

            reply = await engine.request("GET", "/", sink=take, hold=held.append)
            assert held == [reply]
            assert (reply.status, b"".join(taken), reply.ended_well) == (200, b"hello", True)
        assert engine.num_connections == 1


async def test_a_refusal_is_no_sinks_business() -> None:
    """Its body is read as of any other reply."""
    refused = CHUNKED.replace(b"200 OK", b"400 Bad")
    async with serving(answering(refused, b"2\r\nno\r\n0\r\n\r\n")) as engine:
        taken: list[bytes] = []
        reply = await engine.request("GET", "/", sink=lambda data: bool(taken.append(data)))
        assert (reply.status, await reply.read_all(), reply.taken, taken) == (400, b"no", False, [])


async def test_what_a_sink_raises_ends_the_request() -> None:
    """The engine is cut off."""

    def take(data: bytes) -> bool:
        raise ValueError("no sense in it")

    async with serving(answering(CHUNKED + b"1\r\nx\r\n")) as engine:
        with pytest.raises(ValueError, match="no sense in it"):
            await engine.request("GET", "/", sink=take)
        await eventually(lambda: engine.num_connections == 0)


async def test_a_sink_that_has_enough_ends_the_request() -> None:
    """What comes after that is nobody's."""
    async with serving(answering(CHUNKED + b"1\r\nx\r\n", b"1\r\ny\r\n")) as engine:
        taken: list[bytes] = []
        reply = await engine.request("GET", "/", sink=lambda data: bool(taken.append(data)))
        assert taken == [b"x"]
        assert reply.ended_well is None
        reply.close()


async def test_a_stale_connections_reply_is_replaced_before_the_sink_gets_anything() -> None:
    handler = answering(CHUNKED + b"2\r\nok\r\n0\r\n\r\n", times=1)
    async with serving(handler) as engine:
        for _ in range(5):
            taken: list[bytes] = []
            held: list[Reply] = []
            reply = await engine.request(
                "GET", "/", sink=lambda data, to=taken: not to.append(data), hold=held.append
            )
            assert held[-1] is reply
            assert taken == [b"ok"]


async def test_a_slow_reader_slows_the_engine_down() -> None:
    """Far more than the high-water mark is offered; memory stays near it, and all of it arrives."""
    total = 64 * HIGH_WATER_BYTES
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_head(reader)
        writer.write(OK + b"content-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(bytes(HIGH_WATER_BYTES // 4))
            sent += HIGH_WATER_BYTES // 4
            await writer.drain()
        writer.close()

    async with serving(handle) as engine:
        reply = await engine.request("GET", "/")
        for _ in range(2000):
            await asyncio.sleep(0)
        assert sent < total // 2
        received = 0
        while part := await reply.read():
            received += len(part)
        assert received == total


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (
            400,
            "This model's maximum context length is 10 tokens. However, …",
            ContextLengthExceeded,
        ),
        (400, "bad logit_bias", EngineRejected),
        (422, "bad", EngineRejected),
        (503, "queue is full", NotReady),
        (500, "boom", EngineFailed),
        (401, "who are you", EngineFailed),
    ],
)
def test_an_engines_refusal_becomes_ours(status: int, message: str, kind: type) -> None:
    error = refusal(status, b'{"error": {"message": "%s", "code": 1}}' % message.encode())
    assert type(error) is kind
    assert message in error.message
    assert isinstance(refusal(status, b"<html>"), type(error)) or status == 400


@pytest.mark.parametrize(
    "message",
    [
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "cannot schedule new futures after shutdown",
    ],
)
def test_a_500_of_an_engine_that_goes_down_is_told_from_one_that_a_request_caused(
    message: str,
) -> None:
    """By vLLM's own words at the beginning; a client can come back."""
    body = b'{"error": {"message": "%s", "code": 500}}'
    error = refusal(500, body % message.encode())
    assert isinstance(error, EngineStopping)
    assert error.headers()["retry-after"]
    assert not isinstance(refusal(500, body % f"x: {message}".encode()), EngineStopping)
