"""Traces: OpenTelemetry spans of requests and of their calls at engines, sent over OTLP/HTTP.

A request's spans are made at its end, out of its record; on its way it has only ids, for the
headers of its calls. What the SDK reads from the environment (OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_*, …) holds here too. Attributes are
`serve.trace_attributes`'.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from serve import __version__
from serve.legs import Trace, new_span_id
from serve.record import Record
from serve.settings import SettingsError
from serve.threads import joined
from serve.trace_attributes import LEG_GIVEN_UP, is_error, of_leg, of_request, operation_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Span, SpanKind, Status

FLUSH_S = 3.0
"""For spans that wait at the end: a collector that is gone holds nobody up for longer."""
COMPLAIN_EVERY_S = 60.0
SHORTEST_WAIT_MS = 1.0
"""For a slot, that gets a span."""
_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)


class Tracing:
    """Spans to the OTLP/HTTP receiver at `endpoint`, its base URL. `ratio` of the requests whose
    caller hasn't decided are traced; a caller's decision (`traceparent`) holds.

    Raises `SettingsError` where the packages are missing, or the SDK refuses the environment.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as exc:
            raise SettingsError(
                f"`telemetry.otlp_endpoint` needs a package that is not installed ({exc}): "
                '`pip install "r1-serve[otel]"`, or remove the setting'
            ) from exc

        url = f"{endpoint.rstrip('/')}/v1/traces"
        self._make_exporter = functools.partial(OTLPSpanExporter, endpoint=url)
        try:
            _Spans(self._make_exporter()).provider.shutdown()
        except (ValueError, OSError) as exc:
            raise SettingsError(f"the variables OTEL_… of the environment: {exc}") from exc
        self._sampler = ParentBased(TraceIdRatioBased(ratio))
        self._spans: _Spans | None = None
        """While they can leave."""

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Trace:
        """The trace of a request that comes with these headers, sampled or not."""
        from opentelemetry.sdk.trace.sampling import Decision
        from opentelemetry.trace import get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        sent: dict[str, str] = {}
        for name, value in headers:
            if name in (b"traceparent", b"tracestate"):
                key, text = name.decode(), value.decode("latin-1")
                sent[key] = f"{sent[key]},{text}" if key in sent else text
        context = TraceContextTextMapPropagator().extract(sent, _nothing())
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else random.getrandbits(128) or 1
        decision = self._sampler.should_sample(context, trace_id, "").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        state = parent.trace_state.to_header() if parent.is_valid else ""
        parent_id = parent.span_id if parent.is_valid else 0
        return Trace(trace_id, new_span_id(), sampled, state, parent_id)

    def tell(self, record: Record, trace: Trace, began_ns: int) -> None:
        """The spans of a request that began at `began_ns` (since the epoch) and has ended."""
        if self._spans is not None:
            self._spans.tell(record, trace, began_ns)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Spans leave while inside; at the end, for at most `FLUSH_S`, those that are left."""
        self._spans = spans = _Spans(self._make_exporter())
        complaints = _Seldom()
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(complaints)
        try:
            yield
        finally:
            self._spans = None
            flush = threading.Thread(target=spans.provider.shutdown, daemon=True)
            flush.start()
            if await joined(flush, FLUSH_S):
                for name in _LOGGERS:
                    logging.getLogger(name).removeFilter(complaints)
            else:  # and it will complain
                spans.exporter.shutdown()  # type: ignore[no-untyped-call]


class _Spans:
    """Makes spans, which leave by `exporter` in a thread of the SDK's."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import IdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        class GivenIds(IdGenerator):
            """Those that have gone out in headers."""

            trace_id = span_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

            def generate_span_id(self) -> int:
                return self.span_id

        self._ids = GivenIds()
        self.exporter = exporter
        self.provider = TracerProvider(
            sampler=ALWAYS_ON,  # what isn't sampled gets no spans
            resource=_resource(),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self.provider.get_tracer("serve", __version__)

    def tell(self, record: Record, trace: Trace, began_ns: int) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        def at(ms: float) -> int:
            return began_ns + round(ms * 1e6)

        def begin(name: str, span_id: int, parent: Context, kind: SpanKind, ms: float) -> Span:
            self._ids.trace_id, self._ids.span_id = trace.trace_id, span_id
            return self._tracer.start_span(name, context=parent, kind=kind, start_time=at(ms))

        name = " ".join(filter(None, (operation_of(record), record.model)))
        whole = begin(name, trace.span_id, _caller(trace), SpanKind.SERVER, 0)
        whole.set_attributes(of_request(record))
        if is_error(record):
            whole.set_status(_error())
        for event, ms in (
            ("r1.first_token", record.first_token_ms),
            ("r1.first_answer", record.first_answer_ms),
        ):
            if ms is not None:
                whole.add_event(event, timestamp=at(ms))
        inside = set_span_in_context(whole, _nothing())
        legs = record.legs or []
        if (queued_ms := record.queued_ms or 0) >= SHORTEST_WAIT_MS:
            slot_ms = legs[0].at_ms if legs else record.total_ms
            began_ms = max(0.0, slot_ms - queued_ms)
            wait = begin("r1.queue", new_span_id(), inside, SpanKind.INTERNAL, began_ms)
            wait.end(at(slot_ms))
        for leg in legs:
            span_id = int(leg.span_id or "0", 16)
            span = begin(f"leg {leg.kind}", span_id, inside, SpanKind.CLIENT, leg.at_ms)
            span.set_attributes(of_leg(record, leg))
            if leg.error not in (None, LEG_GIVEN_UP):
                span.set_status(_error())
            span.end(at(leg.at_ms + leg.ms))
        whole.end(at(record.total_ms))


def _resource() -> Resource:
    """What the environment says of this process wins over our own name."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": "r1-serve", "service.version": __version__}
    return Resource.create(ours | dict(OTELResourceDetector().detect().attributes))


def _error() -> Status:
    """Without a description: messages may quote a request."""
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR)


def _nothing() -> Context:
    from opentelemetry.context import Context

    return Context()


def _caller(trace: Trace) -> Context:
    """The context that the request itself is in."""
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )

    if not trace.parent_id:
        return _nothing()
    span = SpanContext(
        trace.trace_id,
        trace.parent_id,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
    return set_span_in_context(NonRecordingSpan(span), _nothing())


class _Seldom(logging.Filter):
    """Lets one message through in `COMPLAIN_EVERY_S`: a collector that is gone is told of, not
    complained about for each batch and each try."""

    _last_s = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s < COMPLAIN_EVERY_S:
            return False
        self._last_s = now_s
        return True
