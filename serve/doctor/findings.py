"""What a check of `r1-serve doctor` found."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warning", "problem"]
GIB = 1024**3
MIB = 1024**2


class Finding(msgspec.Struct, frozen=True):
    check: str
    status: Status
    summary: str
    remedy: str | None = None
    """None where nothing is to be done."""


def ok(check: str, summary: str) -> Finding:
    return Finding(check, "ok", summary)


def warning(check: str, summary: str, remedy: str) -> Finding:
    """It may work, or work worse than it could."""
    return Finding(check, "warning", summary, remedy)


def problem(check: str, summary: str, remedy: str) -> Finding:
    """It will not work."""
    return Finding(check, "problem", summary, remedy)


def size(num_bytes: float) -> str:
    """As people read it: `1.5 GiB`, `64 MiB`."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.0f} MiB"
