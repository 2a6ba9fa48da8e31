"""Writes to a client from a callback, without switching tasks while the client keeps up.

Under our own server, body parts go straight to the connection (`serve.http.ClientLine`). Under
another one, and when the client is slow, they go by ASGI's `send`. That is a coroutine, but it
seldom waits: only when the client reads too slowly. `ClientWriter` runs it on the spot. When it
would wait, a task takes over from there, what comes meanwhile is kept, and the source is told to
pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, cast

from starlette.types import Message, Send

from serve.http import ClientLine


class ClientWriter:
    """`pause` and `resume` hold the source back and let it go on."""

    def __init__(
        self,
        send: Send,
        pause: Callable[[], None],
        resume: Callable[[], None],
        line: ClientLine | None = None,
    ) -> None:
        self._send = send
        self._line = line
        self._pause = pause
        self._resume = resume
        self._waiting: list[Message] = []
        self._task: asyncio.Task[None] | None = None

    def begin(self, headers: list[tuple[bytes, bytes]], data: bytes) -> None:
        """The head of a reply of status 200 and its first part. Raises as `write` does."""
        if self._line is None or not self._line.begin(headers, data):
            self.write({"type": "http.response.start", "status": 200, "headers": headers})
            if data:
                self.write_body(data)

    def write_body(self, data: bytes) -> None:
        """A part of the body, not the last and not empty. Raises as `write` does."""
        if self._task is not None or self._line is None or not self._line.write(data):
            self.write({"type": "http.response.body", "body": data, "more_body": True})

    def write(self, message: Message) -> None:
        """Raises what `send` raises; later, `drain` does."""
        if self._task is not None:
            self._waiting.append(message)
            return
        sending = cast(Coroutine[Any, Any, None], self._send(message))
        try:
            first = sending.send(None)
        except StopIteration:
            return
        self._pause()
        self._task = asyncio.create_task(self._catch_up(_Started(sending, first)))

    async def drain(self) -> None:
        """Returns when everything is written."""
        if self._task is not None:
            await self._task

    def close(self) -> None:
        """Gives up on what is not written yet."""
        if self._task is not None:
            self._task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Drains, also when the source failed: what came before is the client's all the same. Only
        cancelling gives up."""
        try:
            if kind is None or issubclass(kind, Exception):
                await self.drain()
        finally:
            self.close()

    async def _catch_up(self, sending: Awaitable[None]) -> None:
        await sending
        while self._waiting:
            messages, self._waiting = self._waiting, []
            for message in messages:
                await self._send(message)
        self._task = None
        self._resume()


class _Started(Awaitable[None]):
    """Awaits a coroutine that has run up to its first wait, which yielded `first`."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], first: object) -> None:
        self._coroutine = coroutine
        self._yielded = first

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            while True:
                try:
                    value = yield self._yielded
                except BaseException as exc:  # cancelled, or the awaited future failed
                    self._yielded = self._coroutine.throw(exc)
                else:
                    self._yielded = self._coroutine.send(value)
        except StopIteration:
            return
