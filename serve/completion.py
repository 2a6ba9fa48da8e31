"""Plain completions pass through: the engine's bytes, unread, under the same gate and guard."""

from __future__ import annotations

import contextlib

import msgspec
from fastapi import Response
from starlette.types import Receive, Scope, Send

from serve.admission import Gate
from serve.chat import DisconnectGuard, outcome_of
from serve.connection import Reply
from serve.errors import ClientGone, ServeError, UpstreamError
from serve.replicas import ReplicaSet
from serve.sse import encode
from serve.telemetry import Stopwatch, Telemetry

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
                await send(_part(encode(exc.body()), more=False))
        finally:
            self._telemetry.record(self._watch, ROUTE, "", outcome)

    async def _pass_on(self, reply: Reply, send: Send, guard: DisconnectGuard) -> None:
        streaming = bool(self._body.get("stream"))
        first = await reply.read() if streaming else await reply.read_all()
        content_type = reply.headers.get("content-type", "application/json").encode("latin-1")
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        if not streaming:
            headers.append((b"content-length", b"%d" % len(first)))
            guard.release()
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while streaming and first:
            await send(_part(first, more=True))
            first = await reply.read()
        guard.release()
        await send(_part(first, more=False))


def _part(data: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more}
