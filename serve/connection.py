"""One HTTP/1.1 connection to an engine, which feeds the reply that is read from it.

Own code, since this is the hop whose cost we are measured by: one `asyncio.Protocol` that hands
body bytes straight to the reader, no task, timer or lock per chunk
(`docs/decisions/0002-upstream-client.md` has the figures).
"""

from __future__ import annotations

import asyncio
import functools
from typing import Protocol, cast

import httptools

from serve.engine_reply import Reply, Sink
from serve.errors import UpstreamError

MAX_HEAD_BYTES = 64 << 10
"""Of a reply's status line and headers."""


class StaleConnection(UpstreamError):
    """A kept-alive connection had been closed by the engine; nothing was received on it."""


class ConnectFailed(UpstreamError):
    """The engine could not be reached at all: the request was certainly not begun."""


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

    def send(self, request: bytes, sink: Sink | None = None) -> Reply:
        if self._transport is None:
            raise ConnectFailed("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._reply = reply = Reply(self, sink)
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
