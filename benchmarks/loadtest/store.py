"""A test as it lies on the disk: `run.json` with its settings and figures, `records.jsonl` with a
line for each request. Both are written as the test goes on, so that what was measured stays,
whatever ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.loadtest.drive import Span
from benchmarks.loadtest.estimate import Estimate, estimate
from benchmarks.loadtest.figures import FIGURES
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.observe import Sample
from benchmarks.loadtest.record import Record
from benchmarks.loadtest.workload import Workload
from benchmarks.machine import Machine
from benchmarks.slo import Slo
from serve import __version__
from serve.settings import SettingsError

FORMAT = 1


class Repeat(msgspec.Struct, omit_defaults=True):
    """One step, measured once. `cdfs`: sorted latencies in ms, 100 of them at most."""

    figures: dict[str, float]
    begin_s: float = 0.0
    end_s: float = 0.0
    timeline: list[Sample] = []
    cdfs: dict[str, list[float]] = {}
    tokens: dict[str, list[int]] = {}
    """Lengths of prompts, traces and answers, 100 of each at most, sorted."""
    errors: dict[str, int] = {}
    """What went wrong, and how often."""
    warning: str = ""
    interrupted: bool = False


class Point(msgspec.Struct):
    """One load and its repeats."""

    load: Load
    repeats: list[Repeat] = []

    def estimates(self) -> dict[str, Estimate]:
        """Of every figure that some repeat has, in the order of `FIGURES`. One that was interrupted
        counts only where there is no other."""
        found = {}
        whole = [repeat for repeat in self.repeats if not repeat.interrupted] or self.repeats
        for name in FIGURES:
            values = [it.figures[name] for it in whole if name in it.figures]
            if values:
                found[name] = estimate(values)
        return found


class Run(msgspec.Struct):
    """A whole test."""

    name: str
    began_at: str
    """ISO 8601, UTC."""
    command: str
    url: str
    model: str
    workload: Workload
    slo: Slo
    span: Span
    machine: Machine
    server: str = ""
    """What answered, as far as it tells."""
    points: list[Point] = []
    interrupted: bool = False
    client_version: str = __version__
    format: int = FORMAT

    @property
    def warnings(self) -> list[str]:
        return [
            f"{point.load.label}: {repeat.warning}"
            for point in self.points
            for repeat in point.repeats
            if repeat.warning
        ]


class Store:
    """The directory of one test; made where it is missing. An earlier test in it is replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.json").unlink(missing_ok=True)
        self._records = (directory / "records.jsonl").open("wb")

    def add_records(self, load: Load, repeat: int, records: Sequence[Record]) -> None:
        where = {"load": load.label, "repeat": repeat}
        for record in records:
            line = where | msgspec.to_builtins(record)
            self._records.write(msgspec.json.encode(line) + b"\n")
        self._records.flush()

    def write(self, run: Run) -> None:
        """Replaces the file at once: a reader, or the next look after a crash, finds it whole."""
        path = self.directory / "run.json"
        written = path.with_suffix(".new")
        written.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
        written.replace(path)

    def close(self) -> None:
        self._records.close()


def read_run(path: Path) -> Run:
    """From a `run.json` or the directory that holds one. Raises `SettingsError`."""
    file = path / "run.json" if path.is_dir() else path
    try:
        return msgspec.json.decode(file.read_bytes(), type=Run)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise SettingsError(f"{file}: not a load test's run.json: {error}") from error
