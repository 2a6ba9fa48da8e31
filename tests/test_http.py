"""Our HTTP server on raw sockets: framing, keep-alive, pipelining; and the app without it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve.http import ClientLine, HttpProtocol
from serve.router import build_app
from serve.settings import RouterSettings, Settings
from tests.support import RunningRouter, eventually, running_router

FAST = {"step_ms": 0.2, "prefill_ms": 0}
SCRIPT = 'script:{"think": "hm\\n", "answer": "\\n\\nyes"}'


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(Options(**FAST)) as engine:
        yield engine


@pytest.fixture
async def router(engine: StandInEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


def request(version: str = "1.1", headers: str = "", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": fields.pop("text", SCRIPT)}]
    body = json.dumps({"messages": messages, **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def connect(router: RunningRouter) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = router.url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def read_reply(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """Headers and body of one reply, by its own framing."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    headers = {name: value for name, _, value in lines}
    if "content-length" in headers:
        return headers, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readexactly(2) == b"\r\n"
    return headers, body


def check(stream: bool, headers: dict[str, str], body: bytes) -> None:
    if stream:
        assert headers["transfer-encoding"] == "chunked"
        assert body.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(body)["choices"][0]["message"]["content"] == "yes"


async def test_requests_may_be_pipelined(router: RunningRouter) -> None:
    """Streams and whole replies in turn, all sent at once, answered in order on one connection."""
    reader, writer = await connect(router)
    kinds = [True, False, False, True, True, False]
    writer.write(b"".join(request(stream=stream) for stream in kinds))
    for stream in kinds:
        headers, body = await read_reply(reader)
        check(stream, headers, body)
        assert "connection" not in headers
    writer.write(request())
    check(False, *await read_reply(reader))
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("version", "headers"), [("1.1", "connection: close\r\n"), ("1.0", "")])
async def test_a_connection_that_is_not_to_be_kept_is_closed(
    router: RunningRouter, stream: bool, version: str, headers: str
) -> None:
    """And the reply says so."""
    reader, writer = await connect(router)
    writer.write(request(version, headers, stream=stream))
    reply, body = await read_reply(reader)
    check(stream, reply, body)
    assert reply["connection"] == "close"
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    ("text", "behind"), [("x" * 1_000_000, b""), ("hi", request(text="behind"))]
)
async def test_a_hang_up_is_always_noticed(text: str, behind: bytes) -> None:
    """Also after a large body, for which reading was paused, and with another request pipelined
    behind the one that runs."""
    options = Options(step_ms=5, think_tokens=50_000, max_model_len=10**7)
    async with StandInEngine(options) as engine, running_router(engine.url) as router:
        reader, writer = await connect(router)
        writer.write(request(text=text, stream=True, max_tokens=50_000) + behind)
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        await eventually(lambda: router.router.gate.num_in_flight == 0)
        await eventually(lambda: not engine.running)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_app_runs_without_our_server(
    engine: StandInEngine, router: RunningRouter, stream: bool
) -> None:
    """Plain ASGI: the same replies."""
    app = build_app(Settings(router=RouterSettings(engine_urls=[engine.url])))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as client,
    ):
        await eventually(lambda: bool(app.state.router.replicas.ready))
        body = {"messages": [{"role": "user", "content": SCRIPT}], "stream": stream}
        reply = await client.post("/v1/chat/completions", json=body)
    text = (await router.chat(SCRIPT, stream=stream)).text
    assert without_ids(reply.text) == without_ids(text)


def without_ids(text: str) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    events = [part if part == "[DONE]" else json.loads(part) for part in parts]
    return [event if event == "[DONE]" else event | {"id": 0, "created": 0} for event in events]


async def test_requests_and_connections_leave_no_garbage(router: RunningRouter) -> None:
    """Nothing is left for the collector, which is why it may look seldom."""

    def left() -> int:
        return sum(type(it) in (ClientLine, HttpProtocol) for it in gc.get_objects())

    async def use() -> None:
        reader, writer = await connect(router)
        for stream in (True, False):
            writer.write(request(stream=stream))
            await read_reply(reader)
        writer.close()
        await writer.wait_closed()

    await use()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await use()
        await eventually(lambda: left() == 0)
    finally:
        gc.enable()
