from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from benchmarks.baselines.gradio_api import Event, EventReader, GradioClient, tokens_of
from benchmarks.loadtest.record import Record

STREAM = (
    b"event: heartbeat\ndata: null\n\n"
    + 'event: complete\ndata: ["Grüße: 9", 7]\n\n'.encode()
    + b"data: plain\n\n"
)
EVENTS = [
    Event("heartbeat", "null"),
    Event("complete", '["Grüße: 9", 7]'),
    Event("message", "plain"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_do_not_depend_on_how_the_stream_is_cut(size: int) -> None:
    reader = EventReader()
    parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for part in parts for event in reader.feed(part)] == EVENTS


def test_events_are_the_same_for_every_split_point() -> None:
    for at in range(len(STREAM) + 1):
        reader = EventReader()
        assert [*reader.feed(STREAM[:at]), *reader.feed(STREAM[at:])] == EVENTS


def test_what_is_incomplete_is_no_event_yet() -> None:
    assert list(EventReader().feed(b"event: complete\ndata: [1]\n")) == []


@pytest.mark.parametrize("data", ["null", '["text"]', '[7, "text"]', "nonsense"])
def test_other_outputs_are_refused(data: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, the decoder's own or ours
        tokens_of(data)


@asynccontextmanager
async def app_that_says(stream: bytes, status: int = 200) -> AsyncIterator[str]:
    """A Gradio app with one function, whose stream is `stream`; its URL."""

    async def call(request: web.Request) -> web.Response:
        assert await request.json() == {"data": ["1 + 1?", 7]}
        return web.json_response({"event_id": "e1"}, status=status)

    async def events(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        for at in range(0, len(stream), 5):
            await reply.write(stream[at : at + 5])
        return reply

    app = web.Application()
    app.router.add_post("/gradio_api/call/answer", call)
    app.router.add_get("/gradio_api/call/answer/e1", events)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def asked(stream: bytes, status: int = 200) -> Record:
    record = Record("", 0.0)
    async with app_that_says(stream, status) as url, aiohttp.ClientSession() as session:
        client = GradioClient(session, url, asyncio.get_running_loop().time)
        await client.ask("1 + 1?", 7, record)
    return record


async def test_the_first_text_is_there_when_all_of_it_is() -> None:
    record = await asked(STREAM)
    assert (record.ok, record.output_tokens, record.error) == (True, 7, "")
    assert record.ttft_s == record.e2e_s
    assert record.e2e_s is not None
    assert record.e2e_s > 0


@pytest.mark.parametrize(
    ("stream", "status", "error"),
    [
        (b"event: error\ndata: null\n\n", 200, "the function failed: null"),
        (b"event: heartbeat\ndata: null\n\n", 200, "the stream broke off"),
        (b"event: complete\ndata: [1]\n\n", 200, "not a text and its tokens: [1]"),
        (b"", 503, '{"event_id": "e1"}'),
    ],
)
async def test_a_failure_is_the_records_error(stream: bytes, status: int, error: str) -> None:
    record = await asked(stream, status)
    assert (record.ok, record.error, record.output_tokens) == (False, error, 0)


async def test_an_app_that_is_not_there_is_an_error() -> None:
    record = Record("", 0.0)
    async with aiohttp.ClientSession() as session:
        client = GradioClient(session, "http://127.0.0.1:1", asyncio.get_running_loop().time)
        await client.ask("1 + 1?", 7, record)
    assert not record.ok
    assert record.error
