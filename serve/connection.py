"""One HTTP/1.1 connection to an engine, and the reply that is read from it as it arrives.

Own code, since this is the hop whose cost we are measured by: one `asyncio.Protocol` that hands
body bytes straight to the reader, no task, timer or lock per chunk
(`docs/decisions/0002-upstream-client.md` has the figures).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, cast

import httptools

from serve.errors import UpstreamError

MAX_HEAD_BYTES = 64 << 10
"""Of a reply's status line and headers."""
HIGH_WATER_BYTES = 1 << 20
"""A reader this far behind stops its engine's sending (TCP back-pressure)."""


class StaleConnection(UpstreamError):
    """A kept-alive connection had been closed by the engine; nothing was received on it."""


class ConnectFailed(UpstreamError):
    """The engine could not be reached at all: the request was certainly not begun."""


Sink = Callable[[bytes], bool]
"""Takes bytes as they arrive; False when it wants no more. It must not block."""


class Reply:
    """An engine's reply. `read()` it until b"", or `pipe()` it. `close()` it on every path: that
    cuts an unfinished reply's connection, at which vLLM aborts the generation."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_detached",
        "_done",
        "_error",
        "_sink",
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
        self._detached = False
        self._error: Exception | None = None
        self._sink: Sink | None = None
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
            return self._take_chunks()
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

    async def pipe(self, sink: Sink) -> None:
        """Hands the body to `sink` inside the event loop's own read callback, so that a token costs
        no task switch; returns at the end of the body or when `sink` wants no more.

        Raises what `sink` raised, or the `UpstreamError` that ended the reply early.
        """
        self._sink = sink
        if self._chunks:
            self.push(self._take_chunks())
        while self._sink is not None and not self._done:
            await self._wait()
        self._sink = None
        if self._error is not None:
            raise self._error

    def detach(self) -> None:
        """Nobody wants the rest, but it is short: let it come and keep the connection."""
        self._detached = True

    def close(self) -> None:
        """Cuts an unfinished reply's connection; a finished one goes back to the pool by itself."""
        if not self._done and not self._detached:
            self.fail(UpstreamError("the reply was closed before its end"))

    def fail(self, error: UpstreamError) -> None:
        """Ends the reply with `error`, here and on the wire."""
        if not self._done:
            self.end(error)
            self._connection.abort()

    def pause(self) -> None:
        """The reader can't keep up: the engine is to wait (TCP back-pressure)."""
        self._connection.pause_reading()

    def resume(self) -> None:
        self._connection.resume_reading()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # ---- called by the connection ----

    async def begun(self) -> None:
        """Returns once the headers are there, and of a good reply something of the body: engines
        send a stream's headers at once, and to wake for them alone costs as much as for a token."""
        while not (self.status and (self._chunks or self._done or self.status != 200)):
            if self._error is not None:
                raise self._error
            await self._wait()

    def begin(self, status: int) -> None:
        self.status = status
        if status != 200:
            self._wake()

    def push(self, data: bytes) -> None:
        if self._sink is None:
            self._keep(data)
            return
        try:
            if self._sink(data):
                return
        except Exception as exc:  # it runs in the loop's callback: `pipe` raises it to its caller
            self._error = exc
        self._sink = None
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        if not self._done:
            self._done = True
            self._error = self._error or error
            self._wake()

    @property
    def ended_well(self) -> bool | None:
        """Whether all of it came (True) or its engine broke it off (False); None while it is open
        or where its reader cut it."""
        if self._detached:
            return True
        return not isinstance(self._error, UpstreamError) if self._done else None

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has no length of its own (RFC 9112, section 6.3, the last case)."""
        return bool(self.status) and self.headers.keys().isdisjoint(
            ("content-length", "transfer-encoding")
        )

    def _keep(self, data: bytes) -> None:
        if not self._detached:
            self._chunks.append(data)
            self._size += len(data)
            if self._size > HIGH_WATER_BYTES:
                self.pause()
            self._wake()

    def _take_chunks(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._size > HIGH_WATER_BYTES:
            self.resume()
        self._size = 0
        return data

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
        self._between_chunks = False
        self._head_bytes = 0
        self._interim = False
        self.num_replies = 0
        self.paused = False
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
        self._between_chunks = False
        self._head_bytes = 0
        self.resume_reading()
        self.last_activity_s = self._loop.time()
        self._transport.write(request)
        return reply

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if not self.paused and self.usable and self._transport is not None:
            self._transport.pause_reading()
            self.paused = True

    def resume_reading(self) -> None:
        if self.paused and self.usable and self._transport is not None:
            self._transport.resume_reading()
            self.paused = False
            self.last_activity_s = self._loop.time()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.last_activity_s = self._loop.time()
        reply = self._reply
        if reply is None:  # nothing was asked: whatever comes next here can't be trusted
            self.abort()
            return
        if self._between_chunks:
            head = _chunk_head(len(data))
            if data.startswith(head) and data.endswith(b"\r\n"):
                reply.push(data[len(head) : -2])
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._refuse(f"the engine's reply is not valid HTTP: {exc}")
        if not data.endswith(b"\r\n"):
            self._between_chunks = False  # the next chunk has begun
        if not reply.status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(f"the engine's reply has more than {MAX_HEAD_BYTES} bytes of headers")

    def _refuse(self, why: str) -> None:
        self._break(UpstreamError(why))
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        reply = self._reply
        if reply is not None and reply.ends_with_connection and exc is None:
            reply.end()
        elif reply is not None and not reply.status and self.num_replies:
            self._break(StaleConnection("the engine closed an idle connection"))
        else:
            reason = f": {exc}" if exc else ""
            self._break(UpstreamError(f"the engine broke the connection off{reason}"))
        self._owner.lost(self)

    def _break(self, error: UpstreamError) -> None:
        if self._reply is not None:
            self._reply.end(error)
            self._reply = None

    # ---- httptools ----

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        self._keep_alive = self._parser.should_keep_alive()
        if self._reply is None:
            return
        if self._interim:  # the final reply follows (RFC 9110, section 15.2)
            self._reply.headers.clear()
        else:
            self._reply.begin(status)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_body(self, body: bytes) -> None:
        if self._reply is not None:
            self._reply.push(body)

    def on_message_complete(self) -> None:
        if self._interim:
            return
        reply, self._reply = self._reply, None
        self.num_replies += 1
        if reply is None:  # a second one to the same request
            self.abort()
            return
        reply.end()
        if self._keep_alive:
            self._owner.released(self)
        elif self._transport is not None:
            self._transport.close()


@functools.lru_cache(maxsize=4096)
def _chunk_head(num_bytes: int) -> bytes:
    """What a read of `num_bytes` begins with if it is one whole HTTP chunk and nothing else, as a
    streamed token mostly is (RFC 9112, section 7.1). Such a read needn't go through the parser."""
    for num_digits in range(1, 9):
        size = num_bytes - num_digits - len(b"\r\n\r\n")
        if size > 0 and len(b"%x" % size) == num_digits:
            return b"%x\r\n" % size
    return bytes(num_bytes + 1)  # no read of this length is: what it can't begin with
