"""Plain completions pass through: the engine's bytes, unread, under the same gate and guard."""

from __future__ import annotations

import contextlib

import msgspec
from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from serve.admission import Gate
from serve.chat import DisconnectGuard, body_part, outcome_of
from serve.connection import Reply
from serve.errors import ClientGone, ServeError, UpstreamError
from serve.replicas import ReplicaSet
from serve.sse import encode
from serve.telemetry import Stopwatch, Telemetry
from serve.writer import ClientWriter

ROUTE = "/v1/completions"


class CompletionReply(Response):
    """A plain completion, streaming or not, as the engine sends it."""

    def __init__(
        self,
        body: dict[str, object],
        replicas: ReplicaSet,
        gate: Gate,
        telemetry: Telemetry,
        watch: Stopwatch,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._body = body
        self._message = msgspec.json.encode(body)
        self._replicas = replicas
        self._gate = gate
        self._telemetry = telemetry
        self._watch = watch
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "error"
        try:
            with self._gate.slot(), contextlib.ExitStack() as resources:
                async with DisconnectGuard(receive) as guard:
                    reply, _ = await self._replicas.open(
                        str(self._body["model"]), ROUTE, lambda _: self._message, resources
                    )
                    await self._pass_on(reply, send, guard)
            outcome = "ok"
        except ClientGone:
            outcome = "client_gone"
        except ServeError as exc:
            outcome = outcome_of(exc)
            if not self._started:
                raise
            if isinstance(exc, UpstreamError) and self._body.get("stream"):
                await send(body_part(encode(exc.body()), more=False))
        finally:
            self._telemetry.record(self._watch, ROUTE, "", outcome)

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
            self._started = True
        guard.release()
        await send(body_part(body, more=False))

    async def _pipe(self, reply: Reply, send: Send, start: Message) -> None:
        writer = ClientWriter(send, reply.pause, reply.resume)

        def sink(data: bytes) -> bool:
            if not self._started:
                self._started = True
                writer.write(start)
            writer.write(body_part(data, more=True))
            return True

        async with writer:
            await reply.pipe(sink)
