"""What tests listen with: the pipe of an access log, and a receiver of OTLP/HTTP traces that reads
what it gets with OpenTelemetry's own messages."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support import eventually

Kind = Span.SpanKind
ERROR = Status.STATUS_CODE_ERROR


class Log:
    """What is read of the pipe that the access log goes to."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self._rest = b""
        self.lines: list[dict[str, Any]] = []
        self.text = ""

    def read(self) -> list[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.read_fd, 1 << 16):
                self.text += data.decode()
                *whole, self._rest = (self._rest + data).split(b"\n")
                self.lines += [json.loads(line) for line in whole]
        return self.lines

    async def next(self) -> dict[str, Any]:
        """Its only line since the last call."""
        await eventually(lambda: bool(self.read()))
        (line,) = self.lines
        self.lines = []
        return line

    def stop_reading(self) -> None:
        os.close(self.read_fd)
        self.read_fd = -1

    def close(self) -> None:
        os.close(self.write_fd)
        if self.read_fd >= 0:
            self.stop_reading()


class Received:
    """A span, and what its sender says of itself."""

    def __init__(self, span: Span, resource: dict[str, Any]) -> None:
        self.name = span.name
        self.kind = span.kind
        self.trace_id = span.trace_id.hex()
        self.id = span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.state = span.trace_state
        self.start_ns, self.end_ns = span.start_time_unix_nano, span.end_time_unix_nano
        self.attributes = {item.key: _value(item.value) for item in span.attributes}
        self.events = {event.name: event.time_unix_nano for event in span.events}
        self.status = span.status
        self.resource = resource
        self.raw = span.SerializeToString()


class Receiver:
    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []

    def of(self, trace_id: str) -> list[Received]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait(
        self, wanted: Callable[[list[Received]], bool], within_s: float = 10
    ) -> list[Received]:
        """The spans, once they are as wanted."""
        deadline = time.monotonic() + within_s
        while not wanted(self.spans):
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.01)
        return list(self.spans)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            assert self.headers["content-type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["content-length"]))
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = {it.key: _value(it.value) for it in group.resource.attributes}
                for scope in group.scope_spans:
                    receiver.spans += [Received(span, resource) for span in scope.spans]
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind or "string_value")
