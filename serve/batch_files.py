"""The two files of a bulk job, in the form of OpenAI's Batch API: a request per line, an answer per
line.

What is left to do follows from the two alone: an answer's id names its request's line and that
line's checksum. Memory is a few bytes per line, however long the lines are.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import zlib
from array import array
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import msgspec

from serve.strict import did_you_mean
from serve.wire import UNREADABLE

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_ID = re.compile(r"batch_req_([1-9]\d{0,11})_([0-9a-f]{8})")
_NONE = -1


class BatchError(ValueError):
    """The files can't be used so; the message says why and what to do."""


class BadRequest(ValueError):
    """A line that can't be sent; the message names the field and the remedy."""


class Request(msgspec.Struct, frozen=True):
    """A line of the input."""

    custom_id: str
    url: str
    body: dict[str, msgspec.Raw]
    method: str = "POST"


class Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    """Why there is no response."""

    code: str
    message: str


class Answer(msgspec.Struct, frozen=True):
    """A line of the output."""

    id: str
    custom_id: str | None
    response: Response | None = None
    error: Failure | None = None


class _Status(msgspec.Struct):
    status_code: int


class _Answered(msgspec.Struct):
    id: str
    response: _Status | None = None


class _CustomId(msgspec.Struct):
    custom_id: str | None = None


class Line(msgspec.Struct, frozen=True):
    """A line of the input that has no answer yet."""

    number: int
    """From 1; lines that are empty count."""
    text: bytes

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.text)

    @property
    def id(self) -> str:
        return f"batch_req_{self.number}_{self.checksum:08x}"

    @property
    def custom_id(self) -> str | None:
        """None where the line is too broken to tell."""
        try:
            return msgspec.json.decode(self.text, type=_CustomId).custom_id
        except UNREADABLE:
            return None


def parse(line: Line) -> Request:
    """Raises `BadRequest`."""
    try:
        request = msgspec.json.decode(line.text, type=Request)
    except UNREADABLE as exc:
        raise BadRequest(f"line {line.number} isn't a request: {exc}") from exc
    if request.method != "POST":
        raise BadRequest(f"line {line.number}: `method` must be POST, got {request.method!r}")
    if request.url not in PATHS:
        hint = did_you_mean(request.url, PATHS) or f"; it may be {', '.join(PATHS)}"
        raise BadRequest(f"line {line.number}: `url` can't be {request.url!r}{hint}")
    if bytes(request.body.get("stream", b"null")) not in (b"false", b"null"):
        raise BadRequest(f"line {line.number}: `body.stream` is for interactive use; leave it out")
    return request


class Job:
    """An input and its output, which is written to as answers come."""

    def __init__(self, requests: Path, answers: Path, out: FileIO) -> None:
        """Reads both. `out` is `answers`, to write to. Raises `BatchError`."""
        self._requests = requests
        self._answers = answers
        self._out = out
        self._answered = array("q")
        """By a line's number: its checksum, or `_NONE`."""
        self.num_lines = self.num_answered = self.num_failed = 0
        self._read_answers()
        for line in self._lines():
            self.num_lines += 1
            if (known := self._known(line)) != _NONE:
                self.num_answered += 1
                if known != line.checksum:
                    raise self._changed()
        if self.num_answered != len(self._answered) - self._answered.count(_NONE):
            raise self._changed()

    def _lines(self) -> Iterator[Line]:
        with self._requests.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text := text.strip():
                    yield Line(number, text)

    def _read_answers(self) -> None:
        """A last line that is torn is cut off: the job was killed while writing it."""
        size = 0
        with self._answers.open("rb") as file:
            for text in file:
                if not text.endswith(b"\n"):
                    self._out.truncate(size)
                    return
                size += len(text)
                self._read_answer(text)

    def _read_answer(self, text: bytes) -> None:
        try:
            answer = msgspec.json.decode(text, type=_Answered)
            found = _ID.fullmatch(answer.id)
        except UNREADABLE:
            found = None
        if found is None:
            raise BatchError(
                f"{self._answers} has lines that are not of a batch; name another file for the "
                "answers"
            )
        number = int(found[1])
        self._answered.extend(itertools.repeat(_NONE, number + 1 - len(self._answered)))
        self._answered[number] = int(found[2], 16)
        self.num_failed += not _is_good(answer)

    def _known(self, line: Line) -> int:
        return self._answered[line.number] if line.number < len(self._answered) else _NONE

    def _changed(self) -> BatchError:
        return BatchError(
            f"{self._answers} has answers to other requests than {self._requests} has now; name "
            "another file for the answers, or put the old requests back"
        )

    def unanswered(self) -> Iterator[Line]:
        """Those that had no answer when the job was opened."""
        return (line for line in self._lines() if self._known(line) == _NONE)

    def write(self, answer: Answer) -> None:
        """Straight to the system, so that a kill tears no more than the last line."""
        text = memoryview(msgspec.json.encode(answer) + b"\n")
        size = os.fstat(self._out.fileno()).st_size
        try:
            while text:
                text = text[self._out.write(text) :]
        except OSError:
            self._out.truncate(size)
            raise
        self.num_answered += 1
        self.num_failed += not _is_good(answer)


def _is_good(answer: Answer | _Answered) -> bool:
    return answer.response is not None and answer.response.status_code == 200


@contextlib.contextmanager
def opened(requests: Path, answers: Path) -> Iterator[Job]:
    """Raises `BatchError`."""
    try:
        requests.open("rb").close()
        with answers.open("ab", buffering=0) as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BatchError(f"another batch is writing to {answers}") from None
            for path in (requests, answers):
                if not path.is_file():
                    raise BatchError(f"{path} is no file; both are read more than once")
            if answers.samefile(requests):
                raise BatchError("the answers can't go into the file of the requests")
            yield Job(requests, answers, out)
    except OSError as exc:
        raise BatchError(f"{exc.filename or answers}: {exc.strerror}") from exc
