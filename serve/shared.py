"""Counters that several router processes share, so that limits hold for all of them together.

One small file per subject (the gate, each key) in a directory that the workers' parent makes: a row
of int64 counters for each worker, mapped into memory. A worker writes its own row only and anyone
adds rows up, so there is no lock and nothing to wait for. An aligned eight-byte store is one store
on every 64-bit machine: a reader sees the old value or the new one. With one worker the counters
are a plain array.
"""

from __future__ import annotations

import mmap
import os
from array import array
from pathlib import Path

from serve.worker import ALONE, Worker

RUNNING, QUEUED, REQUESTS, TOKENS = range(4)
"""Columns. The first two are gauges, the others only grow (but for a refund)."""
NUM_COLUMNS = 4
_GAUGES = (RUNNING, QUEUED)
_CELL_BYTES = 8


class Counters:
    """One subject's counters, seen by one worker."""

    __slots__ = ("_base", "_cells", "_num_workers")

    def __init__(
        self, cells: array[int] | memoryview[int], worker: int = 0, num_workers: int = 1
    ) -> None:
        self._cells = cells
        self._base = worker * NUM_COLUMNS
        self._num_workers = num_workers

    @classmethod
    def alone(cls) -> Counters:
        """The counters of a router that is one process."""
        return cls(array("q", [0] * NUM_COLUMNS))

    def add(self, column: int, amount: int) -> None:
        self._cells[self._base + column] += amount

    def own(self, column: int) -> int:
        """This worker's part."""
        return self._cells[self._base + column]

    def total(self, column: int) -> int:
        """Over all workers."""
        if self._num_workers == 1:
            return self._cells[column]
        return sum(self._cells[column::NUM_COLUMNS])


class Shared:
    """Where a worker gets its counters."""

    def __init__(self, worker: Worker = ALONE) -> None:
        self._worker = worker

    def counters(self, subject: str) -> Counters:
        """The counters of `subject`, a name fit for a file.

        The gauges of this worker's row begin at zero: what it held before it died, if it did, is
        gone. What only grows goes on from where it was.
        """
        worker = self._worker
        if worker.directory is None:
            return Counters.alone()
        path = Path(worker.directory, "limits", subject)
        path.parent.mkdir(exist_ok=True)
        cells = _map(path, worker.count * NUM_COLUMNS * _CELL_BYTES)
        for column in _GAUGES:
            cells[worker.index * NUM_COLUMNS + column] = 0
        return Counters(cells, worker.index, worker.count)


def _map(path: Path, size: int) -> memoryview[int]:
    """Whoever comes first makes the file; growing it to the same size again changes nothing."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(file, size)
        return memoryview(mmap.mmap(file, size)).cast("q")
    finally:
        os.close(file)
