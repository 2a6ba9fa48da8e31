"""A program in a pseudo-terminal, and a person before it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import R1_SERVE, ROOT

WITHIN_S = 20.0
NO_CACHE = "PYTHONDONTWRITEBYTECODE"
CTRL_C, CTRL_D, CTRL_R, ENTER, ESCAPE, TAB, UP = (
    "\x03",
    "\x04",
    "\x12",
    "\r",
    "\x1b",
    "\t",
    "\x1b[A",
)
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
_WHERE = b"\x1b[6n"
"""Asks a terminal where its cursor is."""


class Terminal:
    """`shown` is all that was written, without what moves the cursor or colours; a line that was
    written over stands before the one that took its place. `raw` is as it was."""

    def __init__(self, arguments: list[str], env: dict[str, str], columns: int) -> None:
        self._ours, its = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(its, termios.TIOCSWINSZ, size)
        # The leader of a session that opens a terminal has it as its own: Ctrl-C reaches it then.
        script = 'exec "$@" <"$0"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script, os.ttyname(its), *R1_SERVE, *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            env={"TERM": "xterm", "LANG": "C.UTF-8", **env},
            cwd=ROOT,
            start_new_session=True,
        )
        os.close(its)
        self._raw = bytearray()
        self._seen = 0
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def raw(self) -> str:
        return self._raw.decode(errors="replace")

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self.raw.replace("\r\x1b[K", "\n")).replace("\r", "")

    def type(self, *keys: str) -> None:
        os.write(self._ours, "".join(keys).encode())

    def say(self, text: str) -> None:
        self.type(text, ENTER)

    def wait_for(self, pattern: str) -> str:
        """What was shown since the last wait, up to a match of `pattern`."""
        deadline = time.monotonic() + WITHIN_S
        with self._more:
            while not (found := re.search(pattern, self.shown[self._seen :])):
                if not self._more.wait(deadline - time.monotonic()):
                    pytest.fail(f"no {pattern!r} in:\n{self.shown[self._seen :]}")
            start, self._seen = self._seen, self._seen + found.end()
            return self.shown[start : self._seen]

    def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        status = self.process.wait(WITHIN_S)
        self._reader.join()
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has it open any more
            while data := os.read(self._ours, 65536):
                for _ in range(data.count(_WHERE)):
                    os.write(self._ours, b"\x1b[24;1R")
                with self._more:
                    self._raw += data
                    self._more.notify()


@contextlib.contextmanager
def chatting(
    home: Path, url: str, *arguments: str, columns: int = 120, **env: str
) -> Iterator[Terminal]:
    """`r1-serve chat`, in the environment of a user whose state is kept in `home`."""
    whose = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    kept = {name: it for name, it in os.environ.items() if name in ("PATH", NO_CACHE)}
    terminal = Terminal(["chat", "--url", url, *arguments], kept | whose | env, columns)
    try:
        yield terminal
    finally:
        terminal.close()
