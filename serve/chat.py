"""The ASGI response that runs a chat: slot, generation, and its choices sent as they come.

It owns the life of the request from the plan on: a client that hangs up ends the generation, an
error before the first text becomes a plain error reply, one after it an error event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from serve import sse
from serve.admission import Gate
from serve.errors import (
    FAILED,
    ClientGone,
    InvalidRequest,
    NotReady,
    ServeError,
    TooManyRequests,
)
from serve.generation import Generation
from serve.presets import Plan
from serve.reply import Head, StreamReply, WholeReply
from serve.telemetry import Stopwatch, Telemetry
from serve.wire import EngineChoice
from serve.writer import ClientWriter

log = logging.getLogger(__name__)

SERVER_SEND = "r1.send"
"""Scope key of the server's own `send`: Starlette's wrappers around it cost each token 2 µs."""
ROUTE = "/v1/chat/completions"


class DisconnectGuard:
    """`async with` it around work for one client: when the client hangs up, the work is cancelled
    and `ClientGone` is raised in its place. `release()` it before the reply's last byte."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not inside a task")
        self._task = task
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if self._gone and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone from None

    def release(self) -> None:
        self._watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


class ChatReply(Response):
    """Runs `generation` when the server calls it, as a stream or as a whole, by the plan."""

    def __init__(
        self,
        plan: Plan,
        generation: Generation,
        head: Head,
        *,
        gate: Gate,
        telemetry: Telemetry,
        watch: Stopwatch,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._plan = plan
        self._generation = generation
        self._head = head
        self._gate = gate
        self._telemetry = telemetry
        self._watch = watch
        self._started = False
        content_type = "text/event-stream; charset=utf-8" if plan.stream else "application/json"
        self.init_headers(
            {
                "content-type": content_type,
                "cache-control": "no-store",
                "x-request-id": head.id,
                "x-r1-preset": plan.preset,
                "x-r1-budget-source": plan.budget_source,
                **(
                    {"x-r1-thinking-token-budget": str(plan.thinking_token_budget)}
                    if plan.thinking_token_budget is not None
                    else {}
                ),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "error"
        send = scope.get(SERVER_SEND, send)
        try:
            with self._gate.slot():
                try:
                    async with DisconnectGuard(receive) as guard:
                        await self._generation.start()
                        await (self._stream if self._plan.stream else self._whole)(send, guard)
                finally:
                    self._generation.close()
            outcome = "ok"
        except ClientGone:
            outcome = "client_gone"
        except ServeError as exc:
            outcome = outcome_of(exc)
            if not self._started:
                raise
            await send(body_part(sse.encode(exc.body()), more=False))
        except Exception:
            if not self._started:
                raise
            log.exception("%s failed in mid-stream", self._head.id)
            await send(body_part(sse.encode(ServeError(FAILED).body()), more=False))
        finally:
            self._telemetry.record(self._watch, ROUTE, self._plan.preset, outcome)
            self._telemetry.count(self._generation.usage, self._plan.preset)
            log.info(
                "%s %s preset=%s stream=%s %s %.0f ms %s",
                self._head.id,
                ROUTE,
                self._plan.preset,
                self._plan.stream,
                outcome,
                self._watch.elapsed_s() * 1000,
                self._generation.usage,
            )

    async def _stream(self, send: Send, guard: DisconnectGuard) -> None:
        reply, generation = StreamReply(self._plan, self._head), self._generation
        writer = ClientWriter(send, generation.pause, generation.resume)
        encode, write = reply.encode, writer.write

        def emit(choices: list[EngineChoice]) -> None:
            if self._watch.first_answer_s is None:
                note_first_text(self._watch, choices)
            events = encode(choices)
            if not self._started:
                self._started = True
                write(self._start())
                if self._plan.return_token_ids and generation.prompt_token_ids is not None:
                    events = reply.prompt_token_ids(generation.prompt_token_ids) + events
            if events:
                write(body_part(events, more=True))

        async with writer:
            await generation.run(emit)
        last = reply.usage(generation.usage) if self._plan.include_usage else b""
        guard.release()
        await send(body_part(last + sse.DONE_EVENT, more=False))

    async def _whole(self, send: Send, guard: DisconnectGuard) -> None:
        reply, generation = WholeReply(self._plan, self._head), self._generation

        def emit(choices: list[EngineChoice]) -> None:
            if self._watch.first_answer_s is None:
                note_first_text(self._watch, choices)
            reply.add(choices)

        await generation.run(emit)
        body = reply.body(generation.usage, generation.prompt_token_ids)
        self.raw_headers.append((b"content-length", b"%d" % len(body)))
        guard.release()
        self._started = True
        await send(self._start())
        await send(body_part(body, more=False))

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": 200, "headers": self.raw_headers}


def note_first_text(watch: Stopwatch, choices: Iterable[EngineChoice]) -> None:
    for choice in choices:
        if watch.first_token_s is None and (choice.delta.reasoning or choice.delta.content):
            watch.first_token_s = watch.elapsed_s()
        if choice.delta.content:
            watch.first_answer_s = watch.elapsed_s()


def outcome_of(error: ServeError) -> str:
    if isinstance(error, InvalidRequest):
        return "invalid"
    return "rejected" if isinstance(error, TooManyRequests | NotReady) else "error"


def make_head(request_id: str, model: str, reasoning_fields: list[str]) -> Head:
    return Head(
        id=request_id, created=int(time.time()), model=model, reasoning_fields=reasoning_fields
    )


def body_part(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
