"""Server-sent events, incrementally: bytes of a stream → the data of each event. Pure.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html as far as OpenAI-style
streams use it: comments and other fields than `data` are skipped, several `data` lines are joined
by a newline, lines end in LF, CRLF or CR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"


def encode(data: bytes) -> bytes:
    """One event with `data`, which must be free of newlines (JSON is)."""
    return b"data: %b\n\n" % data


def comment(text: bytes) -> bytes:
    """What clients skip; `text` must be free of newlines."""
    return b": %b\n\n" % text


class SSETooLong(ValueError):
    """An event grew beyond the limit without ending."""


class SSEDecoder:
    """Feed it bytes as they come; each call gives the data of the events that are complete.
    `on_comment` gets the comments among them, before `feed` returns."""

    __slots__ = ("_buffer", "_max_event_bytes", "_on_comment", "_saw_cr")

    def __init__(
        self,
        max_event_bytes: int = 16 * 1024 * 1024,
        *,
        on_comment: Callable[[bytes], None] | None = None,
    ) -> None:
        self._buffer = bytearray()
        self._saw_cr = False
        self._max_event_bytes = max_event_bytes
        self._on_comment = on_comment

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises `SSETooLong` when an unfinished event exceeds the limit."""
        if (
            not self._buffer
            and chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and not self._saw_cr
            and b"\r" not in chunk
        ):
            return [chunk[6:-2]]  # one whole event, as a streamed token mostly is
        if self._saw_cr or b"\r" in chunk:
            chunk = self._normalise(chunk)
        searched = max(0, len(self._buffer) - 1)
        self._buffer += chunk
        if self._buffer.find(b"\n\n", searched) < 0:
            if len(self._buffer) > self._max_event_bytes:
                raise SSETooLong(f"an event is longer than {self._max_event_bytes} bytes")
            return []
        *events, rest = bytes(self._buffer).split(b"\n\n")
        self._buffer = bytearray(rest)
        if self._on_comment is not None:
            for text in _comments(events):
                self._on_comment(text)
        return [data for event in events if (data := _data(event)) is not None]

    def _normalise(self, chunk: bytes) -> bytes:
        """CRLF and CR become LF, also where the pair is cut between two chunks."""
        if self._saw_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._saw_cr = chunk.endswith(b"\r") if chunk else self._saw_cr
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(event: bytes) -> bytes | None:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [_value(line) for line in event.split(b"\n") if _is_data(line)]
    return b"\n".join(lines) if lines else None


def _comments(events: Iterable[bytes]) -> list[bytes]:
    lines = (line for event in events for line in event.split(b"\n") if line.startswith(b":"))
    return [line[1:].removeprefix(b" ") for line in lines]


def _is_data(line: bytes) -> bool:
    return line == b"data" or line.startswith(b"data:")


def _value(line: bytes) -> bytes:
    return line[5:].removeprefix(b" ")
