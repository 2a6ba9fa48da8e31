"""Which of the router's processes this one is (`server.workers`)."""

from __future__ import annotations

import msgspec


class Worker(msgspec.Struct, frozen=True):
    """The default is the only one."""

    index: int = 0
    """0 to `count - 1`; a worker that died comes back under its old index."""
    count: int = 1
    directory: str | None = None
    """Scratch directory that all workers share, gone when the last one has ended; None when there
    is only one."""
    log_fd: int | None = None
    """Where the access log goes; None: to standard output, which of several workers is their line
    to their parent."""


ALONE = Worker()
