"""The life of a reply that an engine makes: a slot, the client's presence, errors, one record.

A client that hangs up ends the work, an error before the first byte becomes a plain error reply,
one after it an error event. What is sent in between is `serve.chat`'s and `serve.completion`'s.
"""

from __future__ import annotations

import abc
import asyncio
import logging
from types import TracebackType
from typing import ClassVar, Self

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from serve import sse
from serve.admission import Admission, class_of
from serve.drain import Drain
from serve.errors import FAILED, ClientGone, NotReady, ServeError, TooManyRequests
from serve.http import ClientLine, came_before_drain, client_line
from serve.record import Record
from serve.telemetry import Telemetry
from serve.usage import Usage
from serve.visit import Visit

log = logging.getLogger(__name__)


class DisconnectGuard:
    """`async with` it around work for one client: when the client hangs up, the work is cancelled
    and `ClientGone` is raised in its place. `release()` it before the reply's last byte.

    `line` brings the news under our own server; under another one a task waits for it."""

    def __init__(self, receive: Receive, line: ClientLine | None = None) -> None:
        self._receive = receive
        self._line = line
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not inside a task")
        self._task = task
        if self._line is not None:
            self._line.watch(self._hang_up)
        else:
            self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()
        if self._gone and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone from None

    def release(self) -> None:
        if self._line is not None:
            self._line.unwatch()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._hang_up()

    def _hang_up(self) -> None:
        self._gone = True
        self._task.cancel()


class EngineResponse(Response, abc.ABC):
    """Subclasses say what to send (`run`) and what to let go of afterwards (`close`)."""

    route: ClassVar[str]

    def __init__(
        self, admission: Admission, telemetry: Telemetry, visit: Visit, preset: str
    ) -> None:
        self.status_code = 200
        self.background = None
        self.admission = admission
        self.telemetry = telemetry
        self.visit = visit
        self.watch = visit.watch
        self.preset = preset
        self.started = False
        """Whether the reply's first byte has gone out."""
        self.line: ClientLine | None = None

    @abc.abstractmethod
    async def run(self, send: Send, guard: DisconnectGuard) -> None:
        """Sends the whole reply, setting `started`; releases `guard` before the last byte."""

    @abc.abstractmethod
    def close(self) -> None:
        """Called on every path, before the end is recorded."""

    @abc.abstractmethod
    def used(self) -> Usage:
        """What the engine spent on it, as far as it is known."""

    def error_event(self, error: ServeError) -> bytes:
        """What ends a stream that has begun."""
        return sse.encode(error.body())

    def tell(self, record: Record) -> None:
        """As `record.Told`."""
        record.preset = self.preset or None
        record.priority = self.admission.claim.priority
        record.queued_ms = round(self.admission.queued_s * 1000, 3)

    def ended(self, outcome: str) -> None:
        """Records the end, and charges it to the key that asked."""
        urgency = class_of(self.admission.claim.priority)
        self.telemetry.record(self.watch, self.route, self.preset, urgency, outcome)
        if self.admission.waited_s is not None:
            self.telemetry.admitted(urgency, self.admission.waited_s)
        if self.admission.key_name is not None:
            usage = self.used()
            self.admission.charge(usage.prompt_tokens + usage.completion_tokens)
            self.telemetry.count_key(self.admission.key_name, outcome, usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "error"
        self.line = client_line(scope, send)
        drain: Drain = scope["app"].state.drain
        try:
            drain.refuse(could_know=not came_before_drain(scope))
            with drain.under_way(reply=True):
                async with DisconnectGuard(receive, self.line) as guard, self.admission:
                    try:
                        await self.run(send, guard)
                    finally:
                        self.close()
            outcome = "ok"
        except ClientGone:
            outcome = "client_gone"
        except ServeError as exc:
            self.visit.failed(exc)
            outcome = "error" if self.started else self.visit.outcome
            if not self.started:
                if isinstance(exc, TooManyRequests | NotReady):
                    self.telemetry.rejected(exc.reason)
                raise
            await send(body_part(self.error_event(exc), more=False))
        except Exception:
            if not self.started:
                raise
            log.exception("%s failed in mid-stream", self.route)
            self.visit.failed(error := ServeError(FAILED))
            await send(body_part(self.error_event(error), more=False))
        finally:
            self.visit.outcome = outcome
            if self.started:
                self.visit.status = self.status_code
            self.ended(outcome)


def body_part(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
