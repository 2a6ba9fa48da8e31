"""What is told of each request when it has ended: to the access log, to traces, or to the log.

Without an access log, the router's own log has a short line for each generation and each error.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.types import Scope

from serve.access_log import AccessLog, standard_output
from serve.record import MAX_LEGS, Record, line_of
from serve.settings import TelemetrySettings
from serve.tracing import Tracing
from serve.visit import SCOPE_KEY, Visit
from serve.worker import Worker

log = logging.getLogger(__name__)

NOT_TOLD = frozenset({"/health", "/ready", "/metrics", "/replicas"})
"""Paths that machines, and the playground's fleet page, ask for every few seconds. The files of the
pages aren't told of either."""


class Journal:
    """One per app. Raises `SettingsError`."""

    def __init__(self, settings: TelemetrySettings, worker: Worker) -> None:
        self.access_log: AccessLog | None = None
        self.tracing: Tracing | None = None
        if settings.access_log:
            fd = standard_output() if worker.log_fd is None else worker.log_fd
            self.access_log = AccessLog(fd)
        if settings.otlp_endpoint is not None:
            self.tracing = Tracing(settings.otlp_endpoint, settings.trace_ratio)

    def begin(self, scope: Scope) -> Visit:
        """A request has come; the visit is in its scope from now on."""
        visit = scope[SCOPE_KEY] = Visit(scope["method"], scope["headers"])
        return visit

    def trace(self, visit: Visit, scope: Scope) -> None:
        """It is one that traces are made of, by a client whose word on sampling counts."""
        if self.tracing is not None:
            visit.trace = visit.legs.trace = self.tracing.begin(scope["headers"])

    def end(self, visit: Visit) -> None:
        """It has ended."""
        reply, visit.reply = visit.reply, None  # it leads back to the visit
        if self.access_log is None and visit.trace is None and not log.isEnabledFor(logging.INFO):
            return
        record = visit.record(reply)
        if self.access_log is not None:
            self.access_log.write(line_of(record))
        elif reply is not None or record.outcome not in ("ok", "unavailable"):
            _log_shortly(record)
        if self.tracing is not None and visit.trace is not None and visit.trace.sampled:
            self.tracing.tell(record, visit.trace, visit.began_ns)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Lines and spans leave while inside, and at the end what is left, within seconds."""
        async with contextlib.AsyncExitStack() as stack:
            for sink in (self.access_log, self.tracing):
                if sink is not None:
                    await stack.enter_async_context(sink.running())
            yield


def _log_shortly(record: Record) -> None:
    log.info(
        "%s %s %s: %s%s in %.0f ms, key=%s preset=%s thinking=%s answer=%s legs=%s",
        record.request_id,
        record.method,
        record.route,
        record.outcome,
        f" ({record.error})" if record.error else "",
        record.total_ms,
        record.key,
        record.preset,
        record.reasoning_tokens,
        record.answer_tokens,
        " ".join(leg.kind for leg in (record.legs or ())[:MAX_LEGS]),
    )
