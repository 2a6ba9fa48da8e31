"""An engine's reply as its reader sees it: its head, then its body as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from serve.errors import UpstreamError

HIGH_WATER_BYTES = 1 << 20
"""A reader this far behind stops its engine's sending (TCP back-pressure)."""

Sink = Callable[[bytes], bool]
"""Takes bytes as they arrive; False when it wants no more. It must not block."""


class Carrier(Protocol):
    """The connection that a reply comes on."""

    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Reply:
    """An engine's reply. `read()` it until b"", unless a sink takes its body. `close()` it on every
    path: that cuts an unfinished reply's connection, at which vLLM aborts the generation.

    The sink of a good reply (status 200) gets its body inside the event loop's own read callback,
    from the first byte on, so that neither a token nor the reply's beginning costs a task switch.
    """

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
        "taken",
    )

    def __init__(self, connection: Carrier, sink: Sink | None = None) -> None:
        self._connection = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._done = False
        self._detached = False
        self._error: Exception | None = None
        self._sink = sink
        self._waiter: asyncio.Future[None] | None = None
        self.taken = False
        """Whether the sink has got anything."""
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

    async def over(self) -> None:
        """Returns once the sink wants no more, at the end of the body, or once a bad reply begins,
        which is read as any other. Raises what the sink raised, or the `UpstreamError` that ended
        the reply early."""
        while self._sink is not None and not self._done:
            await self._wait()
        self._sink = None
        if self._error is not None:
            raise self._error

    def begin(self, status: int) -> None:
        self.status = status
        if status != 200:
            self._sink = None
            self._wake()

    def push(self, data: bytes) -> None:
        if self._sink is None:
            self._keep(data)
            return
        self.taken = True
        try:
            if self._sink(data):
                return
        except Exception as exc:  # it runs in the loop's callback: `over` raises it to its caller
            self._error = exc
        self._sink = None
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        if not self._done:
            self._done = True
            self._sink = None  # it leads back here
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
