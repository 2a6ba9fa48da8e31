"""Writing to a client that keeps up, and to one that doesn't."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from serve.writer import ClientWriter
from tests.support import eventually


class Client:
    """An ASGI `send` that waits while `gate` is closed, and the pauses that it causes."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.got: list[int] = []
        self.calls: list[str] = []
        self.writer = ClientWriter(
            self.send, lambda: self.calls.append("pause"), lambda: self.calls.append("resume")
        )

    async def send(self, message: Message) -> None:
        if message["n"] < 0:
            raise OSError("gone")
        while not self.gate.is_set():
            await self.gate.wait()
            await asyncio.sleep(0)
        self.got.append(message["n"])


async def test_a_client_that_keeps_up_costs_no_task() -> None:
    """Each message is out when `write` returns."""
    client = Client()
    for n in range(3):
        client.writer.write({"n": n})
        assert client.got == list(range(n + 1))
    await client.writer.drain()
    assert client.calls == []


async def test_a_slow_client_gets_everything_in_order() -> None:
    """The source is paused once, what comes meanwhile is kept, and all of it arrives."""
    client = Client()
    client.writer.write({"n": 0})
    client.gate.clear()
    for n in range(1, 5):
        client.writer.write({"n": n})
    await asyncio.sleep(0)
    assert (client.got, client.calls) == ([0], ["pause"])
    client.gate.set()
    await client.writer.drain()
    assert client.got == [0, 1, 2, 3, 4]
    assert client.calls == ["pause", "resume"]
    client.writer.write({"n": 5})
    assert client.got[-1] == 5


async def test_what_came_before_a_failure_is_still_written() -> None:
    """Leaving by an error drains; leaving by cancelling doesn't."""
    client = Client()
    client.gate.clear()
    asyncio.get_running_loop().call_soon(client.gate.set)

    async def use() -> None:
        async with client.writer as writer:
            writer.write({"n": 0})
            raise ValueError("broken source")

    with pytest.raises(ValueError, match="broken source"):
        await use()
    assert client.got == [0]


async def test_closing_gives_up_on_what_waits() -> None:
    client = Client()
    client.gate.clear()
    client.writer.write({"n": 0})
    client.writer.close()
    with pytest.raises(asyncio.CancelledError):
        await client.writer.drain()
    assert client.got == []


async def test_a_failing_send_is_raised_at_once_or_by_drain() -> None:
    client = Client()
    with pytest.raises(OSError, match="gone"):
        client.writer.write({"n": -1})
    client.gate.clear()
    client.writer.write({"n": 0})
    client.writer.write({"n": -1})
    client.gate.set()
    await eventually(lambda: client.got == [0])
    with pytest.raises(OSError, match="gone"):
        await client.writer.drain()
