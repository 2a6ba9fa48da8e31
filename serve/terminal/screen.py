"""What is written on the terminal: streamed text, paragraphs, and a line that is rewritten."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve.terminal.wrap import Wrapper, printable

FALLBACK_COLUMNS = 80
DIM, RED = "2", "31"
"""As in ECMA-48, 8.3.117."""


class Screen:
    """`env` may ask for no colours (https://no-color.org), or name a terminal that can do nothing
    but print."""

    def __init__(self, stream: TextIO, env: Mapping[str, str]) -> None:
        self._stream = stream
        self._moves = env.get("TERM", "dumb") not in ("", "dumb", "unknown")
        self._styled = self._moves and not env.get("NO_COLOR")
        self._wrapper = Wrapper()
        self._status = False

    @property
    def width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or FALLBACK_COLUMNS
        except OSError:
            return FALLBACK_COLUMNS

    def stream(self, text: str, style: str = "") -> None:
        """A part of a text that goes on."""
        self.end_status()
        if self._moves:
            laid_out = self._wrapper.feed(text, self.width)
        else:
            laid_out = printable(text)
            self._wrapper.column = not laid_out.endswith("\n") if laid_out else 0
        self._write(laid_out, style)

    def end_line(self) -> None:
        """The cursor is at the beginning of a line afterwards."""
        self.end_status()
        if self._wrapper.column:
            self.stream("\n")

    def say(self, text: str, style: str = DIM) -> None:
        """A paragraph of ours."""
        self.end_line()
        self.stream(f"{text}\n", style)

    def space(self) -> None:
        self.end_line()
        self.stream("\n")

    def rows(self, rows: Iterable[tuple[str, str]]) -> None:
        """Two columns, the second as wide as there is room."""
        self.end_line()
        table = Table.grid(padding=(0, 2))
        table.add_column(max_width=max(16, self.width // 3), overflow="fold")
        table.add_column()
        for left, right in rows:
            table.add_row(Text(printable(left)), Text(printable(right)))
        console = Console(file=self._stream, width=self.width, color_system=None)
        console.print(table)

    def status(self, text: str) -> None:
        """What is going on now: a line that the next output takes the place of."""
        if not self._moves:
            return
        self.end_line()
        line, edge = printable(text), self.width - 1
        if cell_len(line) > edge:
            line = set_cell_size(line, edge - 1) + "…"
        self._write(line, DIM)
        self._status = True

    def end_status(self) -> None:
        if self._status:
            self._status = False
            self._write("\r\x1b[K")

    def _write(self, text: str, style: str = "") -> None:
        if text and style and self._styled:
            text = f"\x1b[{style}m{text}\x1b[0m"
        self._stream.write(text)
        self._stream.flush()


@contextlib.contextmanager
def waiting_keys(fd: int) -> Iterator[None]:
    """What is typed while nothing reads it isn't shown between the lines of a reply, but waits, key
    by key, for what reads it next. Ctrl-C is a signal as ever."""
    before = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[tty.IFLAG] &= ~termios.ICRNL
    changed[tty.LFLAG] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(fd, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
