"""Sends streaming chats over HTTP/1.1 and notes when what arrives. Connections are kept and reused.

The event loop hands each read to `data_received`, which only looks for the marks it needs: no task
wakes per token and no JSON is decoded before the reply has ended, so that the client takes little
of a machine that the engine may share (figures: docs/decisions/0015-load-generator.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import ssl
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

from benchmarks.loadtest.record import Record

TEXT = re.compile(rb'"(?:reasoning|reasoning_content|content|text)": ?"[^"]')
_ANSWER = re.compile(rb'"(?:content|text)": ?"[^"]')
_EVENT = re.compile(rb"(?:\A|\n)data: ?\{")
_TAIL_BYTES = 8192
"""Of a reply without an answer: enough for its last events."""
MAX_ERROR_CHARACTERS = 300
STALE_S = 0.1
"""A kept connection that ends so soon had been closed by the server before."""
_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS}
SHORT = "the load generator is short of sockets"


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    finish_reason: str | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    completion_tokens_details: CompletionDetails | None = None
    prompt_tokens_details: PromptDetails | None = None


class Extra(msgspec.Struct):
    """The router's own words on what happened."""

    recovered: str | None = None
    failovers: int = 0


class Chunk(msgspec.Struct):
    choices: list[Choice] = []
    usage: Usage | None = None
    r1: Extra | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode_chunk = msgspec.json.Decoder(Chunk).decode


@dataclass(slots=True)
class Window:
    """What all requests together received between two times of the step; each read adds to it."""

    clock: Callable[[], float]
    begin_s: float = 0.0
    end_s: float = float("inf")
    num_events: int = 0
    gaps_s: array[float] = field(default_factory=lambda: array("d"))
    """Between one event of a stream and the next; 0 for events that arrive in one read."""

    def count(self, num_events: int, gap_s: float | None) -> None:
        if not self.begin_s <= self.clock() < self.end_s:
            return
        self.num_events += num_events
        if gap_s is not None:
            self.gaps_s.append(gap_s)
        if num_events > 1:
            self.gaps_s.extend([0.0] * (num_events - 1))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server; `url` without `/v1`."""

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def address(self) -> tuple[str, int, bool]:
        """(host, port, whether by TLS)."""
        parts = urlsplit(self.url)
        is_tls = parts.scheme == "https"
        return parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls

    def request(self, body: Mapping[str, object]) -> bytes:
        """The bytes of a streaming chat that reports its usage."""
        parts = urlsplit(self.url)
        data = msgspec.json.encode(
            {
                "model": self.model,
                "stream": True,
                "stream_options": {"include_usage": True},
                **body,
            }
        )
        head = f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}"
        if self.api_key:
            head += f"\r\nauthorization: Bearer {self.api_key}"
        head += f"\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        return head.encode() + data


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] | None = None
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, record: Record, window: Window) -> asyncio.Future[None]:
        """The future ends with the reply, or with the connection."""
        self.record, self._window = record, window
        self.body = bytearray()
        self._counted = self._last_event = 0
        self.answer_from: int | None = None
        self._last_s: float | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.ended = asyncio.get_running_loop().create_future()
        self.reusable = False
        self.transport.write(request)
        return self.ended

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.record.error = f"not HTTP: {error}"
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        record, name = self.record, name.lower()
        if name == b"retry-after-ms":
            record.retry_after_s = float(value) / 1000
        elif name == b"retry-after" and record.retry_after_s is None and value.isdigit():
            record.retry_after_s = float(value)
        elif name == b"x-r1-budget-source":
            record.budget_source = value.decode(errors="replace")

    def on_headers_complete(self) -> None:
        self.record.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Reads may cut an event anywhere: it counts when its beginning has come, and is looked
        through again with the next read."""
        self.body += body
        found = list(_EVENT.finditer(self.body, self._counted))
        now_s, window = self._window.clock(), self._window
        if self._last_s is not None:
            if found:
                window.count(len(found), now_s - self._last_s)
                self._last_s = now_s
        else:
            window.count(len(found), None)
            if TEXT.search(self.body, self._last_event):
                self.record.first_at_s = self._last_s = now_s
        if self.answer_from is None and _ANSWER.search(self.body, self._last_event):
            self.record.answer_at_s = now_s
            self.answer_from = self._last_event
        if found:
            self.record.num_events += len(found)
            self._last_event, self._counted = found[-1].span()

    def on_message_complete(self) -> None:
        self.record.ended_at_s = self._window.clock()
        self.reusable = self._parser.should_keep_alive()
        self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._end()

    def _end(self) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class Client:
    """Chats with one endpoint, as many at once as are asked for."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: list[_Connection] = []
        self._ssl = ssl.create_default_context() if endpoint.address[2] else None

    async def chat(self, body: Mapping[str, object], record: Record, window: Window) -> str:
        """Fills in the record; the answer's text. Cancelling it hangs up."""
        request = self._endpoint.request(body)
        try:
            connection = await self._exchange(request, record, window)
        except OSError as error:
            record.sent_at_s = record.sent_at_s or window.clock()
            record.error = SHORT if error.errno in _OUT_OF else f"no connection: {error}"
            return ""
        except asyncio.CancelledError:
            record.left_at_s = window.clock()
            raise
        return _read(bytes(connection.body), connection.answer_from, record)

    async def _exchange(self, request: bytes, record: Record, window: Window) -> _Connection:
        """A kept connection that the server has closed meanwhile is no failure of the server."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport.is_closing():
                continue
            await self._send(connection, request, record, window)
            if record.status or window.clock() - record.sent_at_s > STALE_S:
                return connection
        connection = await self._connect()
        await self._send(connection, request, record, window)
        return connection

    async def _send(
        self, connection: _Connection, request: bytes, record: Record, window: Window
    ) -> None:
        record.sent_at_s = window.clock()
        try:
            await connection.send(request, record, window)
        finally:
            if connection.reusable and not connection.transport.is_closing():
                self._idle.append(connection)
            else:
                connection.transport.abort()

    async def _connect(self) -> _Connection:
        host, port, _ = self._endpoint.address
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, host, port, ssl=self._ssl
        )
        return connection

    def close(self) -> None:
        while self._idle:
            self._idle.pop().transport.abort()


def _read(body: bytes, answer_from: int | None, record: Record) -> str:
    """What the reply's events say, from the first of the answer on; its text."""
    if record.status != 200:
        text = body.decode(errors="replace")[:MAX_ERROR_CHARACTERS]
        record.error = record.error or text or "the connection was lost"
        return ""
    start = max(0, len(body) - _TAIL_BYTES) if answer_from is None else answer_from
    content = []
    for line in body[start:].splitlines():
        data = line.removeprefix(b"data:").lstrip()
        if line.startswith(b"data:") and data.startswith(b"{"):
            with contextlib.suppress(msgspec.DecodeError):
                content.append(_note(_decode_chunk(data), record))
    record.done = record.ended_at_s is not None and body.rstrip().endswith(b"[DONE]")
    if not record.done:
        record.error = record.error or "the stream broke off"
    record.has_content = any(content)
    return "".join(content)


def _note(chunk: Chunk, record: Record) -> str:
    """Puts into the record what a chunk tells beside its text; its text."""
    if chunk.usage is not None:
        details, prompt = chunk.usage.completion_tokens_details, chunk.usage.prompt_tokens_details
        record.prompt_tokens = chunk.usage.prompt_tokens
        record.output_tokens = chunk.usage.completion_tokens or 0
        record.reasoning_tokens = (details and details.reasoning_tokens) or 0
        record.cached_tokens = (prompt and prompt.cached_tokens) or 0
    if chunk.r1 is not None:
        record.recovered = chunk.r1.recovered or record.recovered
        record.num_failovers = chunk.r1.failovers or record.num_failovers
    if bytes(chunk.error):
        record.error = bytes(chunk.error).decode(errors="replace")[:MAX_ERROR_CHARACTERS]
    text = ""
    for choice in chunk.choices:
        record.finish_reason = choice.finish_reason or record.finish_reason
        text += (choice.delta and choice.delta.content) or ""
    return text


def step_clock() -> Callable[[], float]:
    """Seconds since now."""
    began_s = time.perf_counter()
    return lambda: time.perf_counter() - began_s
