"""Clients that are slow, rude or hostile: they are answered or dropped, and nobody else is hurt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from benchmarks.stand_in import Options, StandInEngine
from serve.settings import ServerSettings
from tests.faults.support import (
    ANSWER,
    CHAT,
    FAST,
    MESSAGE,
    SSE,
    PlayedEngine,
    Traces,
    chat_body,
    chunk,
    connect,
    exchange,
    faultless_after,
    no_trace_left,
    parse_reply,
    request_bytes,
)
from tests.support import RunningRouter, eventually, running_router

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOW: dict[str, Any] = {"step_ms": 2, "prefill_ms": 1, "think_tokens": 5000}


Shared = tuple[StandInEngine, RunningRouter, Traces]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Shared]:
    async with StandInEngine(Options(**FAST)) as engine, running_router(engine.url) as router:
        await assert_serves(router)  # its connection is kept from here on
        yield engine, router, await Traces.taken(router)


@pytest_asyncio.fixture(loop_scope="module")
async def router(shared: Shared) -> AsyncIterator[RunningRouter]:
    """One router for many tests, each of which leaves it without a trace."""
    engine, router, before = shared
    yield router
    await no_trace_left(router, (engine,), before)


async def assert_serves(router: RunningRouter) -> None:
    reply = await router.chat(MESSAGE)
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER


def assert_refused(raw: bytes, *statuses: int) -> None:
    """One whole reply: an error in OpenAI's shape, or the plain 400 of the HTTP parser."""
    reply = parse_reply(raw)
    assert reply.status in statuses, raw[:300]
    if reply.headers.get("content-type", "").startswith("application/json"):
        assert reply.error.keys() == {"message", "type", "param", "code"}
        assert reply.error["type"] == "invalid_request_error"
    else:
        assert reply.status == 400


# --- slow ones ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{",
        b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
    ],
    ids=["nothing", "headers", "body", "chunks"],
)
async def test_two_hundred_that_drip_hurt_nobody(router: RunningRouter, beginning: bytes) -> None:
    """They hold a connection each, no slot and little memory; others are served meanwhile."""
    before = psutil.Process().memory_info().rss
    clients = [await connect(router.url) for _ in range(200)]
    for _, writer in clients:
        writer.write(beginning)
    for _ in range(5):
        for _, writer in clients:
            writer.write(b"a" * bool(beginning))
        await assert_serves(router)
        assert router.router.gate.num_in_flight == 0
    assert psutil.Process().memory_info().rss - before < 50 << 20
    for _, writer in clients:
        writer.close()


async def test_a_body_that_never_comes_is_not_a_failure_of_the_router(
    router: RunningRouter, caplog: pytest.LogCaptureFixture
) -> None:
    """The client leaves in the middle of it: nothing is logged as unexpected."""
    _, writer = await connect(router.url)
    writer.write(request_bytes()[:-20])
    await asyncio.sleep(0.02)
    writer.close()
    await assert_serves(router)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_clients_that_stop_reading_hold_bounded_memory() -> None:
    """The engine has far more to say than all buffers hold: it is paused, and they leave without a
    trace."""
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": "data " * 4000}}]}).encode()
    num_sent = 0

    async def play(transport: asyncio.Transport) -> None:
        nonlocal num_sent
        transport.write(SSE)
        while not transport.is_closing():
            transport.write(chunk(b"data: %b\n\n" % event))
            num_sent += 1
            assert num_sent < 10_000
            await eventually(
                lambda: transport.is_closing() or transport.get_write_buffer_size() < 1 << 16
            )

    async with PlayedEngine() as engine, faultless_after(engine) as router:
        engine.play = play
        clients = [await connect(router.url, limit=4096) for _ in range(4)]
        for _, writer in clients:
            writer.write(request_bytes(chat_body(stream=True)))
        await eventually(lambda: num_sent > 100)
        num_before = -1
        while num_before != num_sent:  # they have come to a stand
            num_before = num_sent
            await asyncio.sleep(0.3)
        engine.play = None
        await assert_serves(router)
        for _, writer in clients:
            writer.transport.abort()


# --- leaving ------------------------------------------------------------------------------------


async def leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    elif how == "half-close":
        writer.write_eof()
    else:
        writer.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("stream", [True, False])
async def test_whichever_way_a_client_leaves_its_generation_ends(how: str, stream: bool) -> None:
    """Half-closing counts as leaving: what is sent after it may reach nobody."""
    async with StandInEngine(Options(**SLOW)) as engine, faultless_after(engine) as router:
        reader, writer = await connect(router.url)
        writer.write(request_bytes(chat_body("hi", stream=stream)))
        if stream:
            await reader.readuntil(b"data: ")
        await eventually(lambda: bool(engine.running))
        await leave(writer, how)
        await eventually(lambda: not engine.running)
        writer.close()


async def test_a_thousand_that_leave_at_random_moments() -> None:
    """Before, in and after the request, the headers and the stream; closing and resetting."""
    chance = random.Random(3)
    options = Options(step_ms=10, prefill_ms=2, think_tokens=200, max_num_seqs=2000)
    async with StandInEngine(options) as engine, faultless_after(engine) as router:

        async def client() -> None:
            await asyncio.sleep(chance.random() * 2)
            _, writer = await connect(router.url)
            request = request_bytes(chat_body("hi", stream=chance.random() < 0.7))
            cut = chance.choice([len(request)] * 5 + [chance.randrange(len(request))])
            writer.write(request[:cut])
            await asyncio.sleep(chance.random() ** 3 * 0.5)
            await leave(writer, chance.choice(["close", "reset"]))

        await asyncio.gather(*(client() for _ in range(1000)))
        await assert_serves(router)


# --- oddities of HTTP ---------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_turn(router: RunningRouter) -> None:
    requests = b"".join(
        request_bytes(chat_body(f'script:{{"think":"","answer":"no. {i}"}}', stream=bool(i % 2)))
        for i in range(7)
    ).replace(b"connection: close\r\n", b"", 6)
    raw = await exchange(router.url, requests)
    assert raw.count(b"HTTP/1.1 200 OK") == 7
    assert [int(n) for n in re.findall(rb'"content":"no\. (\d)', raw)] == list(range(0, 7, 2))


async def test_a_client_that_waits_for_100_continue(router: RunningRouter) -> None:
    reader, writer = await connect(router.url)
    head, _, body = request_bytes(headers=b"expect: 100-continue\r\n").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert parse_reply(await reader.read()).status == 200
    writer.close()


async def test_the_content_type_does_not_matter(router: RunningRouter) -> None:
    """curl's default is not JSON's; the body is what counts."""
    for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"\xff", b""):
        raw = await exchange(router.url, request_bytes(headers=b"content-type: " + kind + b"\r\n"))
        assert parse_reply(raw).status == 200


async def test_http_1_0(router: RunningRouter) -> None:
    """No chunks in a whole reply, for those who can't know them (RFC 9112, section 6.1). A stream
    has them even so (uvicorn), which proxies that speak 1.0 to what is behind them understand."""
    request = request_bytes(chat_body(stream=False)).replace(b"HTTP/1.1", b"HTTP/1.0")
    raw = await exchange(router.url, request)
    assert b"transfer-encoding" not in raw.partition(b"\r\n\r\n")[0]
    assert parse_reply(raw).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://example.com" + CHAT.encode(), 200),
        (b"http://example.com", 400),
        (CHAT.encode() + b"?a=%00&b=%c3%a9", 200),
        (b"/v1/../v1/chat/completions", 404),
        (b"//v1/chat/completions", 404),
        (b"*", 400),
        (b"/%00%ff%0d%0aset-cookie:a", 404),
        (b"/\xff\xfe", 400),
        (b"/" + b"a" * 60_000, 404),
    ],
)
async def test_targets(router: RunningRouter, target: bytes, status: int) -> None:
    """Absolute, relative, escaped, long: no proxying, no files, no echo into headers."""
    raw = await exchange(router.url, request_bytes().replace(CHAT.encode(), target, 1))
    reply = parse_reply(raw)
    assert reply.status == status or (status >= 400 and reply.status in (400, 404)), raw[:200]
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "BREW", "CONNECT"])
async def test_methods(router: RunningRouter, method: str) -> None:
    raw = await exchange(router.url, request_bytes().replace(b"POST", method.encode(), 1))
    assert raw.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 400 ")), raw[:100]


async def test_an_upgrade_is_declined(router: RunningRouter) -> None:
    headers = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    request = request_bytes(headers=headers).replace(b"connection: close\r\n", b"")
    reader, writer = await connect(router.url)
    writer.write(request)
    status = await reader.readline()
    assert status.split()[1] in (b"200", b"400", b"426"), status
    writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: -1\r\n",
        b"content-length: 1e3\r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"x y: z\r\n",
        b": nameless\r\n",
        b"folded: a\r\n b\r\nx: \x00\r\n",
    ],
)
async def test_framing_that_could_smuggle_is_refused(router: RunningRouter, head: bytes) -> None:
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    body = b"0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    raw = await exchange(router.url, start + head + b"\r\n" + body, within_s=5)
    assert_refused(raw, 400, 413)
    assert raw.count(b"HTTP/1.1 ") == 1
    await assert_serves(router)


async def test_nothing_a_client_says_gets_into_headers(router: RunningRouter) -> None:
    """Line breaks in names and ids: refused, or replaced by an id of our own."""
    evil = "stand-in\r\nset-cookie: a=b\r\n\r\nHTTP/1.1 200 OK"
    for fields in ({"model": evil}, {"preset": evil}, {"model": f"stand-in:{evil}"}, {evil: 1}):
        raw = await exchange(router.url, request_bytes(chat_body(**fields)))
        assert_refused(raw, 400, 404)
        assert b"\r\nset-cookie" not in raw
    for value in (b"a\rb", b"a\x00b", b"\xff" * 1000, "é".encode(), b"%0d%0aset-cookie: a"):
        raw = await exchange(router.url, request_bytes(headers=b"x-request-id: " + value + b"\r\n"))
        reply = parse_reply(raw)
        assert reply.status in (200, 400)
        assert "set-cookie" not in reply.headers


# --- oversize everything ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST / HTTP/1.1\r\nx-a: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
    ],
)
async def test_who_never_sends_a_whole_request_is_cut(
    router: RunningRouter, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    """From connecting, or from the request's first byte."""
    reader, writer = await connect(router.url)
    writer.write(beginning)
    await assert_serves(router)
    monkeypatch.setattr("serve.http.REQUEST_TIMEOUT_S", 0.1)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def test_headers_without_an_end_are_given_up(router: RunningRouter) -> None:
    """Within a mebibyte, far before they fill the memory; who sends on may miss the reply."""
    reader, writer = await connect(router.url)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
    for _ in range(4):
        with contextlib.suppress(ConnectionError):
            writer.write((b"x-a: " + b"y" * 1000 + b"\r\n") * 256)
            await writer.drain()
    try:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert_refused(await reader.read(), 431)
    finally:
        writer.close()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused_early(declared: bool) -> None:
    """Before it is read, or as soon as it has grown too long; a chunked body without end too."""
    small = ServerSettings(port=0, max_body_bytes=50_000, drain_timeout_s=5)
    async with (
        StandInEngine(Options(**FAST)) as engine,
        faultless_after(engine, server=small) as router,
    ):
        framing = b"content-length: 10000000000" if declared else b"transfer-encoding: chunked"
        reader, writer = await connect(router.url)
        writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % (CHAT.encode(), framing))
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n" if not declared else b"x" * 4096)
                await writer.drain()
                await asyncio.sleep(0)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 413 " in head
        writer.close()


def deep(depth: int) -> bytes:
    inside = b'{"a":' * depth + b"1" + b"}" * depth
    return (
        b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"metadata":' + inside + b"}"
    )


NUMBERS = [
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "1" * 400,
    "-0",
    "0.1e-400",
    "1" * 5000,
    "١",
    "0x1",
]
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]",
    "half": b'{"messages":[',
    "a mark of byte order": b"\xef\xbb\xbf{}",
    "UTF-16": json.dumps(chat_body()).encode("utf-16"),
    "no UTF-8": b'{"messages":[{"role":"user","content":"\xff"}]}',
    "a NUL": b'{"messages":[{"role":"user","content":"\x00"}]}',
    "a lone surrogate": rb'{"messages":[{"role":"user","content":"\ud800"}]}',
    "a surrogate in bytes": b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    "brackets without end": b"[" * 1_000_000,
    "braces without end": b'{"a":' * 500_000,
    "no messages": b'{"messages":[' + b"{}," * 100_000 + b"{}]}",
    "a long key": b'{"' + b"k" * 1_000_000 + b'":1}',
    "many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
}


@pytest.mark.parametrize("name", BODIES)
async def test_bodies_that_are_none_are_refused(router: RunningRouter, name: str) -> None:
    for path in (CHAT, "/v1/completions", "/tokenize"):
        assert_refused(await exchange(router.url, request_bytes(BODIES[name], path=path)), 400)
    await assert_serves(router)


async def test_any_depth_of_nesting_is_served_or_refused(router: RunningRouter) -> None:
    """Around Python's limit on recursion above all: it must not matter who meets it first."""
    for depth in (1, 100, *range(800, 1001, 8), 5000, 100_000):
        raw = await exchange(router.url, request_bytes(deep(depth)))
        status = parse_reply(raw).status
        assert status in (200, 400), (depth, raw[:300])


async def test_a_hundred_thousand_messages(router: RunningRouter) -> None:
    """They fit the body's limit, so they are taken like any others: the context is too short."""
    messages = [{"role": "user", "content": "a"}] * 100_000
    raw = await exchange(router.url, request_bytes({"messages": messages}))
    assert_refused(raw, 400)
    assert parse_reply(raw).error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed", "top_k", "priority"])
async def test_numbers_beyond_all_bounds(router: RunningRouter, field: str) -> None:
    for number in NUMBERS:
        body = b'{"messages":[{"role":"user","content":"hi"}],"%b":%b}'
        data = body % (field.encode(), number.encode())
        status = parse_reply(await exchange(router.url, request_bytes(data))).status
        assert status in (200, 400), number


async def test_texts_of_any_characters_reach_the_engine(router: RunningRouter) -> None:
    for text in ("\x00", "\x1f\x7f\u2028\u2029", "\U0010ffff\ufffe", "a\u0300" * 10_000, ""):
        raw = await exchange(router.url, request_bytes(chat_body(text, max_tokens=1)))
        assert parse_reply(raw).status == 200, text[:10]
