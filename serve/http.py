"""The server's side of HTTP: uvicorn's protocol, and a short cut past ASGI for generations.

ASGI has a reply pay for each part with a message, a coroutine and a look at its whole state, and
for the client's presence with a task that waits in `receive`. `ClientLine` gives a response both
for next to nothing. Under another server, or with a middleware in between, there is none, and
responses use ASGI as it is. `HttpProtocol` also sets the limits that uvicorn lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from serve.errors import HeadersTooLarge, MalformedHTTP, ServeError

MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers; beyond it 431."""
REQUEST_TIMEOUT_S = 60.0
"""For a client to send a whole request, from its first byte or from connecting."""

_PROTOCOL = "r1.protocol"
"""Key among the scope's extensions (ASGI 3.0, "Extensions")."""
_CLOSE = (b"connection", b"close")

Headers = Iterable[tuple[bytes, bytes]]


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which can be found in the scope of each request."""

    live: ClientLine | None = None
    """That of the response that is running; pipelined requests wait for their turn."""
    came_before_drain = False
    """Its client may ask once more: the head of no reply has told it yet to go."""
    _owed_since_s: float | None = None
    """Since when the client owes (the rest of) a request."""
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._owed_since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadersTooLarge(f"the headers exceed {MAX_HEAD_BYTES} bytes"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedHTTP("this is not valid HTTP"))

    def _refuse(self, error: ServeError) -> None:
        """Answers where there is no request that the app could answer."""
        body = error.body()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[error.status] + head % len(body) + body)
        self.transport.close()

    def give_up(self, now_s: float) -> None:
        """Called now and then: cuts a client that is too slow to send a request."""
        if self._owed_since_s is not None and now_s - self._owed_since_s > REQUEST_TIMEOUT_S:
            self.transport.abort()

    def begin_drain(self, last_call_s: int) -> None:
        """Closes it where it is idle, else after a reply that says so in its head. A client that
        can't know that yet may ask (again) for `last_call_s` more: it has just connected, or the
        head of its reply has gone out, or that of its request is coming. To close on it would break
        its next request, which may be on the way."""
        self.came_before_drain = True
        if self._head_bytes:
            may_ask = True
        elif self.cycle is None:
            connected_s = self._owed_since_s or 0.0
            may_ask = self.loop.time() - connected_s < last_call_s
        else:
            may_ask = self.cycle.response_started and not self.cycle.response_complete
        if may_ask:
            self.timeout_keep_alive = last_call_s
        else:
            self.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or the last reply's end is still on its way out."""
        cycle = self.cycle
        return self.transport.is_closing() or (cycle is not None and not cycle.response_complete)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._owed_since_s = self.loop.time()
        self._in_head = True

    def on_message_complete(self) -> None:
        self._owed_since_s = None
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        cast(dict[str, object], self.scope)["extensions"] = {_PROTOCOL: self}
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        live, self.live = self.live, None
        if live is not None and live.on_gone is not None:
            live.on_gone()
        if self.scope is not None:  # it leads back here
            cast(dict[str, object], self.scope)["extensions"] = {}


class ClientLine:
    """One request's way to its client. It looks at what uvicorn keeps of the request's cycle as
    `RequestResponseCycle.send` does, and leaves the rest to that."""

    __slots__ = ("_cycle", "_flow", "_protocol", "_transport", "on_gone")

    def __init__(self, protocol: HttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._transport = protocol.transport
        self._flow = protocol.flow
        self.on_gone: Callable[[], None] | None = None

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Has `on_gone` called once when the client hangs up, at once where it has."""
        self.on_gone = on_gone
        self._protocol.live = self
        self._flow.resume_reading()  # after a large body it may be paused: no news would come
        if self._transport.is_closing():
            on_gone()

    def unwatch(self) -> None:
        """Before the reply's last part: a client may leave after that."""
        self.on_gone = None
        if self._protocol.live is self:
            self._protocol.live = None

    # Each returns False, having done nothing, where ASGI's `send` must do it, since the client is
    # slow or gone.

    def begin(self, headers: Headers, data: bytes) -> bool:
        """Writes the head of a stream of status 200, and with it its first part."""
        if self._flow.write_paused or self._transport.is_closing():
            return False
        head = self._head(headers, b"transfer-encoding: chunked\r\n")
        self._transport.write(head + _chunk(data) if data else head)
        self._cycle.response_started = self._cycle.chunked_encoding = True
        return True

    def write(self, data: bytes) -> bool:
        """Writes a part of a stream, not empty, and not the last."""
        transport = self._transport
        if self._flow.write_paused or transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def end(self, data: bytes) -> bool:
        """Writes the last part of a stream, not empty."""
        if self._flow.write_paused or self._transport.is_closing():
            return False
        self._transport.write(_chunk(data) + b"0\r\n\r\n")
        self._complete()
        return True

    def reply(self, headers: Headers, body: bytes) -> bool:
        """Writes a whole reply of status 200."""
        if self._flow.write_paused or self._transport.is_closing():
            return False
        self._transport.write(self._head(headers, b"content-length: %d\r\n" % len(body)) + body)
        self._cycle.response_started = True
        self._complete()
        return True

    def _head(self, headers: Headers, framing: bytes) -> bytes:
        cycle = self._cycle
        if _CLOSE in cycle.default_headers:
            cycle.keep_alive = False
        lines = [b"%b: %b\r\n" % it for it in (*cycle.default_headers, *headers) if it != _CLOSE]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        return b"HTTP/1.1 200 OK\r\n%b%b\r\n" % (b"".join(lines), framing)

    def _complete(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def client_line(scope: Scope, send: Send) -> ClientLine | None:
    """The line of the request that the server called the app with, where it is there."""
    protocol = scope.get("extensions", {}).get(_PROTOCOL)
    cycle = getattr(send, "__self__", None)
    if isinstance(protocol, HttpProtocol) and isinstance(cycle, RequestResponseCycle):
        return ClientLine(protocol, cycle)
    return None


def came_before_drain(scope: Scope) -> bool:
    """Whether a request of a draining server is on a connection that was there before."""
    protocol = scope.get("extensions", {}).get(_PROTOCOL)
    return isinstance(protocol, HttpProtocol) and protocol.came_before_drain
