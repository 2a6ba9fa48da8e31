"""Plain completions pass through: the engine's bytes, read only where a key pays for the tokens.

So an engine's failure is made good elsewhere only until the first of them has gone out.
"""

from __future__ import annotations

import secrets

import msgspec
from starlette.types import Send

from serve.admission import Admission
from serve.engine_reply import Reply
from serve.errors import UpstreamError
from serve.generation import MAX_FAILOVERS
from serve.record import Record
from serve.replica import Taker
from serve.replicas import Lease, Replica, ReplicaSet
from serve.response import DisconnectGuard, EngineResponse, body_part
from serve.sse import DONE, SSEDecoder, SSETooLong, encode
from serve.telemetry import Telemetry
from serve.usage import Usage
from serve.visit import Visit
from serve.wire import UNREADABLE, EngineUsage
from serve.writer import ClientWriter

ID_PREFIX = "cmpl-"
"""vLLM's, before the id that it is sent."""


class _Metered(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    usage: EngineUsage | None = None


class Meter:
    """Reads what a completion spent. A stream is asked to tell, in a last event that is kept from
    clients that did not ask for it; where it breaks off, each choice of an event is a token."""

    def __init__(self, body: dict[str, object]) -> None:
        """Changes `body`, the engine's."""
        self.begin()
        options = body.get("stream_options")
        asked: dict[str, object] = options if isinstance(options, dict) else {}
        self._hides_usage = not asked.get("include_usage")
        if body.get("stream"):
            body["stream_options"] = asked | {"include_usage": True}

    def begin(self) -> None:
        """An engine is asked, maybe after another has failed: what that one sent is forgotten."""
        self.usage = Usage()
        self.is_complete = False
        """Whether a stream has come to its `[DONE]`."""
        self._decoder = SSEDecoder()

    def feed(self, data: bytes) -> bytes:
        """The events in `data` and before it that are complete, for the client. Raises
        `UpstreamError`."""
        try:
            events = self._decoder.feed(data)
        except SSETooLong as exc:
            raise UpstreamError(f"the engine's stream could not be read: {exc}") from exc
        return b"".join([encode(event) for event in events if self._passes(event)])

    def _passes(self, event: bytes) -> bool:
        if event == DONE:
            self.is_complete = True
            return True
        told = self.read(event)
        return not (self._hides_usage and told.usage is not None and not told.choices)

    def read(self, body: bytes) -> _Metered:
        """Takes a whole reply or an event into account. Raises `UpstreamError`."""
        try:
            told = msgspec.json.decode(body, type=_Metered)
        except UNREADABLE as exc:
            raise UpstreamError(f"the engine's reply could not be read: {exc}") from exc
        if told.usage is not None:
            self.usage.prompt_tokens = told.usage.prompt_tokens
            self.usage.completion_tokens = told.usage.completion_tokens or 0
        else:
            self.usage.completion_tokens += len(told.choices)
        return told


class CompletionReply(EngineResponse):
    """A plain completion, streaming or not, as the engine sends it."""

    route = "/v1/completions"

    def __init__(
        self,
        body: dict[str, object],
        replicas: ReplicaSet,
        admission: Admission,
        telemetry: Telemetry,
        visit: Visit,
    ) -> None:
        super().__init__(admission, telemetry, visit, preset="")
        self._body = body
        self._id = secrets.token_hex(16)
        visit.identify(f"{ID_PREFIX}{self._id}")
        self._meter = Meter(body) if admission.key_name is not None else None
        self._replicas = replicas
        self._lease: Lease | None = None
        self._writer: ClientWriter | None = None

    async def run(self, send: Send, guard: DisconnectGuard) -> None:
        answer = self._stream if self._body.get("stream") else self._whole
        failed = set[Replica]()
        while True:
            try:
                last = await answer(send, failed)
                break
            except UpstreamError as exc:
                lease = self._lease
                if lease is None or not lease.accepted:
                    raise
                lease.failed(exc)
                lease.close()
                failed.add(lease.replica)
                if self.started or len(failed) > MAX_FAILOVERS or not self._replicas.may_retry():
                    raise
        guard.release()
        await send(body_part(last, more=False))

    def used(self) -> Usage:
        return Usage() if self._meter is None else self._meter.usage

    def tell(self, record: Record) -> None:
        super().tell(record)
        record.id, record.model = f"{ID_PREFIX}{self._id}", str(self._body["model"])
        record.stream = bool(self._body.get("stream"))
        if self._meter is not None:
            record.prompt_tokens = self._meter.usage.prompt_tokens
            record.answer_tokens = self._meter.usage.completion_tokens

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()

    # ---- as the taker of a stream (`replica.Taker`) ----

    def hold(self, lease: Lease) -> None:
        self._lease = lease
        if self._meter is not None:
            self._meter.begin()

    def take(self, data: bytes) -> bool:
        if self._meter is not None:
            data = self._meter.feed(data)
            if not data:
                return True
        writer, lease = self._writer, self._lease
        if writer is None or lease is None:
            return False
        if self.started:
            writer.write_body(data)
        else:
            self.started = True
            self.watch.first_token_s = self.watch.elapsed_s()
            writer.begin(self._head_for(lease.reply), data)
        return True

    async def _open(self, failed: set[Replica], taker: Taker | None) -> Lease:
        self._lease = None
        message = msgspec.json.encode(self._body)
        if failed:
            self.visit.legs.kind = "failover"
        return await self._replicas.open(
            str(self._body["model"]),
            self.route,
            lambda _: message,
            headers={"x-request-id": self._id},
            avoid=failed,
            taker=taker,
            legs=self.visit.legs,
        )

    async def _whole(self, send: Send, failed: set[Replica]) -> bytes:
        """Sends the reply's beginning; its body is returned."""
        lease = await self._open(failed, None)
        self.hold(lease)
        body = await lease.reply.read_all()
        if self._meter is not None:
            self._meter.read(body)
        headers = [*self._head_for(lease.reply), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self.started = True
        return body

    async def _stream(self, send: Send, failed: set[Replica]) -> bytes:
        """Sends all of the stream but its end."""
        try:
            async with ClientWriter(send, self._pause, self._resume, self.line) as self._writer:
                await self._open(failed, self)
        finally:
            self._writer = None  # it leads back here
        if not self.started or not (self._meter is None or self._meter.is_complete):
            raise UpstreamError("the engine's stream ended before it was complete")
        return b""

    def _head_for(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        content_type = reply.headers.get("content-type", "application/json").encode("latin-1")
        return [
            (b"content-type", content_type),
            (b"cache-control", b"no-store"),
            (b"x-request-id", self.visit.identify().encode()),
            *self.admission.headers(),
        ]

    def _pause(self) -> None:
        if self._lease is not None:
            self._lease.pause()

    def _resume(self) -> None:
        if self._lease is not None:
            self._lease.resume()
