"""The server's side of HTTP: uvicorn's protocol, and a short cut past ASGI for streamed replies.

ASGI has a reply pay for each part with a message, a coroutine and a look at its whole state, and
for the client's presence with a task that waits in `receive`. `ClientLine` gives a response both
for next to nothing. It travels in the scope's extensions; under another server it is not there and
responses use ASGI as it is. `HttpProtocol` also sets the limits that uvicorn lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.errors import HeadersTooLarge, MalformedHTTP, ServeError

MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers; beyond it 431."""
REQUEST_TIMEOUT_S = 60.0
"""For a client to send a whole request, from its first byte or from connecting."""

CLIENT_LINE = "r1.client_line"
"""Key among the scope's extensions (ASGI 3.0, "Extensions")."""


class ClientLine:
    """One request's way to its client."""

    __slots__ = ("_flow", "_protocol", "_transport", "on_gone")

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
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

    def write(self, data: bytes) -> bool:
        """Writes `data`, not empty, as one HTTP chunk; False where ASGI's `send` must do it, since
        the client is slow or gone. Only between the start of a reply without a content-length and
        its last part."""
        transport = self._transport
        if self._flow.write_paused or transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol that puts a `ClientLine` into each request's scope."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.live: ClientLine | None = None
        """That of the response that is running; pipelined requests wait for their turn."""
        self._owed_since_s: float | None = None
        """Since when the client owes (the rest of) a request."""
        self._in_head = True
        self._head_bytes = 0

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

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._owed_since_s = self.loop.time()
        self._in_head = True

    def on_message_complete(self) -> None:
        self._owed_since_s = None
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        cast(dict[str, object], self.scope)["extensions"] = {CLIENT_LINE: ClientLine(self)}
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        live, self.live = self.live, None
        if live is not None and live.on_gone is not None:
            live.on_gone()
        del self.scope  # a circle through its line


def client_line(scope: Any) -> ClientLine | None:
    """The scope's `ClientLine`, where our own protocol serves it."""
    line = scope.get("extensions", {}).get(CLIENT_LINE)
    return line if isinstance(line, ClientLine) else None
