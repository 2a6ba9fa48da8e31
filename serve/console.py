"""What the launcher tells the person at the terminal: lines, and a status line that is rewritten.

All goes to standard error; where that is no terminal, a status is written once, when it changes.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

from serve.settings import Settings

_PROBLEM = re.compile(r"\b(ERROR|CRITICAL)\b|^\w*Error\b")


class Console:
    """Writes whole lines only, so that logs and the status line don't tear each other."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._rewrites = self._stream.isatty()
        self._status = ""

    def line(self, text: str) -> None:
        self._clear()
        self._write(text + "\n")
        if self._rewrites and self._status:
            self._write(self._status)

    def serving(self, settings: Settings, url: str) -> None:
        """The router takes requests."""
        pages = (
            f" (playground at {url}/ui, docs at {url}/docs)" if settings.server.playground else ""
        )
        self.line(f"Serving {settings.engine.served_name} at {url}{pages}.")

    def problem(self, text: str) -> None:
        """An engine's log line: shown if it tells of an error."""
        if _PROBLEM.search(text):
            self.line(text)

    def status(self, text: str, elapsed_s: float) -> None:
        """What is going on now, for how long."""
        if self._rewrites:
            self._clear()
            self._status = f"{text} … {elapsed_s:.0f} s"
            self._write(self._status)
        elif text != self._status:
            self._status = text
            self._write(f"{text} … {elapsed_s:.0f} s\n")

    def end_status(self) -> None:
        self._clear()
        self._status = ""

    def _clear(self) -> None:
        if self._rewrites and self._status:
            self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class ConsoleHandler(logging.Handler):
    """Sends log records through a `Console`."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.line(self.format(record))
        except Exception:
            self.handleError(record)
