"""What machine this is, and whether others took of it while something was measured.

On a machine of a few cores a compiler or another test beside a measurement is all of its error.
What was disturbed is measured again, and how much others took is kept with the figures.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

T = TypeVar("T")
QUIET_CORES = 0.15
MAX_TRIES = 2


class Machine(msgspec.Struct):
    system: str
    processor: str
    num_cpus: int
    memory_gib: float
    load_average: float

    @classmethod
    def here(cls) -> Machine:
        return cls(
            f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
            _processor(),
            os.cpu_count() or 0,
            round(psutil.virtual_memory().total / 2**30, 1),
            os.getloadavg()[0],
        )


class Watch:
    """From its making on; this process and its descendants are not others."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._others_s = _all_s() - _own_s()

    def others(self) -> float:
        """Cores that others took, on average; the hypervisor's share is among them."""
        span_s = time.monotonic() - self._began_s
        return max(0.0, _all_s() - _own_s() - self._others_s) / span_s


def quietly(measure: Callable[[], T]) -> tuple[T, float]:
    """What was measured at the quieter of two tries, and the cores that others took in it."""
    tries: list[tuple[T, float]] = []
    while len(tries) < MAX_TRIES and not (tries and tries[-1][1] <= QUIET_CORES):
        watch = Watch()
        measured = measure()
        tries.append((measured, watch.others()))
    return min(tries, key=lambda made: made[1])


def _all_s() -> float:
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, kind, 0.0) for kind in kinds)


def _own_s() -> float:
    me, total_s = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system
    return total_s


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
