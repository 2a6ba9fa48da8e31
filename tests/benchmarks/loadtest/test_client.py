"""The load test's client, over the stand-in engine and over a server that sends what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from benchmarks.loadtest.client import Client, Endpoint, Window, step_clock
from benchmarks.loadtest.record import Record
from benchmarks.stand_in import Fault, Options, StandInEngine

OPTIONS = Options(step_ms=5, prefill_ms=2, think_tokens=10, answer_tokens=4)


def asked(text: str = "hi", **script: Any) -> dict[str, Any]:
    content = "script:" + json.dumps(script) if script else text
    return {"messages": [{"role": "user", "content": content}]}


async def chat(client: Client, body: dict[str, Any]) -> tuple[Record, str, Window]:
    record, window = Record("tenant", 0.0), Window(step_clock())
    return record, await client.chat(body, record, window), window


def event(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


TRACE, ANSWER = event(reasoning="hm"), event(content="yes")
REST = (
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}], "r1": {"recovered": "eos"}}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3,'
    b' "completion_tokens_details": {"reasoning_tokens": 1}}}\n\ndata: [DONE]\n\n'
)


@contextlib.asynccontextmanager
async def server(pieces: Sequence[bytes], keep_alive: bool = True) -> AsyncIterator[Client]:
    """Answers each request on a connection with `pieces`, one HTTP chunk and one write each."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for piece in pieces:
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
                if not keep_alive:
                    return

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = Client(Endpoint(f"http://127.0.0.1:{port}", "m"))
    try:
        yield client
    finally:
        client.close()
        listening.close()
        await asyncio.sleep(0.001)  # the connections' ends


async def test_a_reply_is_noted_from_its_first_text_to_its_end() -> None:
    async with StandInEngine(OPTIONS) as engine:
        client = Client(Endpoint(engine.url, "stand-in"))
        record, content, window = await chat(client, asked(think=10, answer="It is 4."))
        client.close()
    assert content == "It is 4."
    assert record.ok
    assert record.answered
    assert record.finish_reason == "stop"
    assert record.output_tokens > 10
    assert record.prompt_tokens > 0
    assert record.first_at_s is not None
    assert record.answer_at_s is not None
    assert record.ended_at_s is not None
    assert record.sent_at_s <= record.first_at_s < record.answer_at_s < record.ended_at_s
    assert window.num_events == record.num_events >= record.output_tokens
    assert len(window.gaps_s) < record.num_events


async def test_wherever_reads_are_split_the_same_is_seen() -> None:
    whole = TRACE + ANSWER + event(content=" and no") + REST
    for at in range(1, len(whole)):
        async with server([whole[:at], whole[at:]]) as client:
            record, content, _ = await chat(client, asked())
        assert content == "yes and no", at
        assert record.ok, at
        assert record.num_events == 5, at
        assert (record.output_tokens, record.reasoning_tokens, record.prompt_tokens) == (3, 1, 7)
        assert record.recovered == "eos"
        assert record.first_at_s is not None
        assert record.answer_at_s is not None


async def test_events_of_one_read_have_no_gap_between_them() -> None:
    async with server([TRACE, ANSWER * 3, REST]) as client:
        _, _, window = await chat(client, asked())
    assert list(window.gaps_s).count(0.0) >= 2
    assert window.num_events == 6


async def test_only_what_arrives_within_the_window_counts() -> None:
    async with server([TRACE, ANSWER, REST]) as client:
        window = Window(step_clock(), begin_s=100.0)
        await client.chat(asked(), Record("t", 0.0), window)
    assert window.num_events == 0
    assert not window.gaps_s


async def test_connections_that_the_server_closes_are_replaced() -> None:
    async with server([TRACE, ANSWER, REST], keep_alive=False) as client:
        for _ in range(30):
            record, _, _ = await chat(client, asked())
            assert record.ok


async def test_kept_connections_that_are_closing_are_not_taken() -> None:
    """Nor looked at again and again: the loop must get to see their end."""
    async with server([TRACE, ANSWER, REST]) as client:
        await asyncio.gather(*(chat(client, asked()) for _ in range(4)))
        kept = list(client._idle)
        assert len(kept) == 4
        for connection in kept[1:]:
            connection.transport.close()  # connection_lost comes in the loop's next turn
        async with asyncio.timeout(5):
            replies = await asyncio.gather(*(chat(client, asked()) for _ in range(8)))
    assert all(record.ok for record, _, _ in replies)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("mark", [b"data: ", b"data:", b"event: message\ndata: "])
async def test_other_ways_to_write_events_are_read_too(line_end: bytes, mark: bytes) -> None:
    whole = (TRACE + ANSWER + REST).replace(b"data: ", mark).replace(b"\n", line_end)
    async with server([whole[:40], whole[40:]]) as client:
        record, content, _ = await chat(client, asked())
    assert record.ok
    assert content == "yes"
    assert record.num_events == 4
    assert record.output_tokens == 3


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Endpoint("http://127.0.0.1:1", "m", "secret"))


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (Fault("status", status=503), 503, "error"),
        (Fault("reset", after=3), 200, "the stream broke off"),
        (Fault("truncated", after=3), 200, "the stream broke off"),
        (Fault("error", after=3), 200, "{"),
    ],
)
async def test_what_fails_says_how(fault: Fault, status: int, error: str) -> None:
    async with StandInEngine(OPTIONS) as engine:
        engine.arm(fault)
        client = Client(Endpoint(engine.url, "stand-in"))
        record, _, _ = await chat(client, asked())
        client.close()
    assert record.status == status
    assert error in record.error
    assert not record.ok


async def test_a_server_that_is_not_there_is_an_error_of_the_record() -> None:
    client = Client(Endpoint("http://127.0.0.1:9", "m"))
    record, _, _ = await chat(client, asked())
    assert record.status == 0
    assert "no connection" in record.error


async def test_cancelling_hangs_up() -> None:
    async with StandInEngine(OPTIONS) as engine:
        client = Client(Endpoint(engine.url, "stand-in"))
        task = asyncio.create_task(chat(client, asked(think=100_000)))
        async with asyncio.timeout(5):
            while not engine.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while engine.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
