"""Where lines of the access log go: standard output, from a thread of its own.

A reader that is slow or gone must not hurt requests: nothing of the event loop waits for it. Up to
`MAX_BACKLOG_BYTES` wait in memory, further lines are lost, and that is told when it begins and when
it is over. Several processes write to one standard output: whole lines, in writes that pipes take
whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator

from serve.record import MAX_LINE_BYTES
from serve.settings import SettingsError
from serve.threads import joined

log = logging.getLogger(__name__)

MAX_BACKLOG_BYTES = 4 << 20
"""Some ten thousand lines."""
GATHER_S = 0.2
"""For more lines to come before any is written: to wake a thread costs more than a line does."""
LAST_LINES_S = 2.0
"""For what waits at the end."""
_LOOK_MS = 500


def standard_output() -> int:
    """Its file descriptor. Raises `SettingsError` where it is closed: something else may have got
    its number."""
    if sys.__stdout__ is None:
        raise SettingsError(
            "`telemetry.access_log` is written to standard output, which is closed: open it, to "
            "/dev/null for one, or set `access_log = false`"
        )
    return sys.__stdout__.fileno()


class AccessLog:
    """Lines to the file `fd`, written while `running()`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._num_bytes_taken = 0  # each of these two is changed by one thread only
        self._num_bytes_done = 0
        self._num_refused = 0
        self._num_failed = 0
        self._num_told = 0
        """Of those that were refused."""
        self._refusing = False
        self._failing = False
        self._wake = threading.Event()
        self._ending = threading.Event()

    @property
    def num_lost(self) -> int:
        """Lines that were not written."""
        return self._num_refused + self._num_failed

    def write(self, line: bytes) -> None:
        """Takes a line, its end included. Never waits."""
        if self._num_bytes_taken - self._num_bytes_done + len(line) > MAX_BACKLOG_BYTES:
            self._num_refused += 1
            if not self._refusing:
                self._refusing = True
                log.warning("the access log's reader can't keep up: lines are lost")
            return
        self._num_bytes_taken += len(line)
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes until left, and then for at most `LAST_LINES_S` what still waits."""
        thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            self._wake.set()
            await joined(thread, LAST_LINES_S)
            if num_lost := self.num_lost + len(self._lines):
                log.warning("lines of the access log that were lost: %d", num_lost)

    # ---- in the thread ----

    def _run(self) -> None:
        while self._lines or not self._ending.is_set():
            self._wake.wait()
            self._ending.wait(GATHER_S)
            self._wake.clear()
            while self._lines:
                self._write_some()
            if self._refusing and not self._failing:
                num_lost, self._num_told = self._num_refused - self._num_told, self._num_refused
                self._refusing = False
                log.warning("the access log's reader keeps up again; lines lost: %d", num_lost)

    def _write_some(self) -> None:
        """As many lines as one write takes whole."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= MAX_LINE_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        try:
            self._write_all(b"".join(lines))
        except OSError as exc:
            self._num_failed += len(lines)
            if not self._failing:
                log.error("the access log can't be written, its lines are lost: %s", exc.strerror)
            self._failing = True
        else:
            if self._failing:
                log.warning("the access log is written again; lines lost: %d", self._num_failed)
            self._failing = False
        self._num_bytes_done += size

    def _write_all(self, data: bytes) -> None:
        """A file that someone else made non-blocking is waited for. Raises `OSError`."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(_LOOK_MS)
