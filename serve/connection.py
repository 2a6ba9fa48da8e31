"""One HTTP/1.1 connection to an engine, and the reply that is read from it as it arrives.

Own code, since this is the hop whose cost we are measured by: one `asyncio.Protocol` that hands
body bytes straight to the reader, no task, timer or lock per chunk
(`docs/decisions/0002-upstream-client.md` has the figures).
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self, cast

import httptools

from serve.errors import UpstreamError

HIGH_WATER_BYTES = 1 << 20
"""A reader this far behind stops its engine's sending (TCP back-pressure)."""


class StaleConnection(UpstreamError):
    """A kept-alive connection had been closed by the engine; nothing was received on it."""


class ConnectFailed(UpstreamError):
    """The engine could not be reached at all: the request was certainly not begun."""


class Reply:
    """An engine's reply. `read()` it until b"", or `close()` it: that cuts the connection, at which
    vLLM aborts the generation."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_done",
        "_error",
        "_size",
        "_waiter",
        "headers",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._done = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}

    async def read(self) -> bytes:
        """All bytes that have come since the last call, waiting for some; b"" at the end.

        Raises the `UpstreamError` that ended the reply early.
        """
        if not self._chunks and not self._done:
            await self._wait()
        if self._chunks:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            if self._size > HIGH_WATER_BYTES:
                self._connection.resume_reading()
            self._size = 0
            return data
        if self._error is not None:
            raise self._error
        return b""

    async def read_all(self, max_bytes: int = 64 << 20) -> bytes:
        """The rest of the body. Raises `UpstreamError` beyond `max_bytes`."""
        parts, size = [], 0
        while part := await self.read():
            size += len(part)
            if size > max_bytes:
                self.close()
                raise UpstreamError(f"the engine's reply is longer than {max_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Cuts an unfinished reply's connection; a finished one goes back to the pool by itself."""
        if not self._done:
            self.fail(UpstreamError("the reply was closed before its end"))

    def fail(self, error: UpstreamError) -> None:
        """Ends the reply with `error`, here and on the wire."""
        if not self._done:
            self._end(error)
            self._connection.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # ---- called by the connection ----

    async def headers_complete(self) -> None:
        while not self.status:
            if self._done and self._error is not None:
                raise self._error
            await self._wait()

    def begin(self, status: int) -> None:
        self.status = status
        self._wake()

    def push(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_BYTES:
            self._connection.pause_reading()
        self._wake()

    def _end(self, error: UpstreamError | None) -> None:
        self._done = True
        self._error = error
        self._wake()

    def complete(self) -> None:
        self._end(None)

    def broken(self, error: UpstreamError) -> None:
        if not self._done:
            self._end(error)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has no length of its own (RFC 9112, section 6.3, the last case)."""
        return bool(self.status) and self.headers.keys().isdisjoint(
            ("content-length", "transfer-encoding")
        )

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Owner(Protocol):
    def released(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One TCP connection: a request at a time, its reply fed from httptools' callbacks."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._keep_alive = True
        self.num_replies = 0
        self.last_activity_s = loop.time()

    # ---- for the pool ----

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reply(self) -> Reply | None:
        return self._reply

    def send(self, request: bytes) -> Reply:
        if self._transport is None:
            raise ConnectFailed("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._reply = reply = Reply(self)
        self.resume_reading()
        self.last_activity_s = self._loop.time()
        self._transport.write(request)
        return reply

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self.usable and self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.usable and self._transport is not None:
            self._transport.resume_reading()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.last_activity_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._break(UpstreamError(f"the engine's reply is not valid HTTP: {exc}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        reply = self._reply
        if reply is not None and reply.ends_with_connection and exc is None:
            reply.complete()
        elif reply is not None and not reply.status and self.num_replies:
            self._break(StaleConnection("the engine closed an idle connection"))
        else:
            reason = f": {exc}" if exc else ""
            self._break(UpstreamError(f"the engine broke the connection off{reason}"))
        self._owner.lost(self)

    def _break(self, error: UpstreamError) -> None:
        if self._reply is not None:
            self._reply.broken(error)
            self._reply = None

    # ---- httptools ----

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        if self._reply is not None:
            self._reply.begin(self._parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        if self._reply is not None:
            self._reply.push(body)

    def on_message_complete(self) -> None:
        reply, self._reply = self._reply, None
        self.num_replies += 1
        if reply is not None:
            reply.complete()
        if self._keep_alive:
            self._owner.released(self)
        elif self._transport is not None:
            self._transport.close()
