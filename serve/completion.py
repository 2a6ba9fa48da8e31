"""Plain completions pass through: the engine's bytes, unread.

So an engine's failure is made good elsewhere only until the first of them has gone out."""

from __future__ import annotations

import msgspec
from starlette.types import Message, Send

from serve.admission import Gate
from serve.connection import Reply
from serve.errors import UpstreamError
from serve.generation import MAX_FAILOVERS
from serve.replicas import Lease, Replica, ReplicaSet
from serve.response import DisconnectGuard, EngineResponse, body_part
from serve.telemetry import Stopwatch, Telemetry
from serve.writer import ClientWriter


class CompletionReply(EngineResponse):
    """A plain completion, streaming or not, as the engine sends it."""

    route = "/v1/completions"

    def __init__(
        self,
        body: dict[str, object],
        replicas: ReplicaSet,
        gate: Gate,
        telemetry: Telemetry,
        watch: Stopwatch,
    ) -> None:
        super().__init__(gate, telemetry, watch, preset="")
        self._body = body
        self._replicas = replicas
        self._lease: Lease | None = None

    async def run(self, send: Send, guard: DisconnectGuard) -> None:
        message = msgspec.json.encode(self._body)
        model, failed = str(self._body["model"]), set[Replica]()
        while True:
            lease = self._lease = await self._replicas.open(
                model, self.route, lambda _: message, avoid=failed
            )
            try:
                return await self._pass_on(lease.reply, send, guard)
            except UpstreamError as exc:
                lease.failed(exc)
                lease.close()
                failed.add(lease.replica)
                if self.started or len(failed) > MAX_FAILOVERS or not self._replicas.may_retry():
                    raise

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()

    async def _pass_on(self, reply: Reply, send: Send, guard: DisconnectGuard) -> None:
        content_type = reply.headers.get("content-type", "application/json").encode("latin-1")
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        body = b""
        if self._body.get("stream"):
            await self._pipe(reply, send, start)
        else:
            body = await reply.read_all()
            headers.append((b"content-length", b"%d" % len(body)))
            await send(start)
            self.started = True
        guard.release()
        await send(body_part(body, more=False))

    async def _pipe(self, reply: Reply, send: Send, start: Message) -> None:
        writer = ClientWriter(send, reply.pause, reply.resume)

        def sink(data: bytes) -> bool:
            if not self.started:
                self.started = True
                writer.write(start)
            writer.write(body_part(data, more=True))
            return True

        async with writer:
            await reply.pipe(sink)
        if not self.started:
            raise UpstreamError("the engine's stream was empty")
