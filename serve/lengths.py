"""How long the generations of each preset usually are, from the last that have ended. Pure."""

from __future__ import annotations

from collections import deque

NUM_LENGTHS = 64
"""How many generations tell what is usual."""
MIN_LENGTHS = 8
USUAL_QUANTILE = 0.95


class UsualLengths:
    def __init__(self) -> None:
        self._lengths: dict[str, deque[int]] = {}

    def add(self, preset: str, num_tokens: int) -> None:
        self._lengths.setdefault(preset, deque(maxlen=NUM_LENGTHS)).append(num_tokens)

    def usual(self, preset: str) -> int | None:
        """What few exceed, in tokens; None while too little is known."""
        lengths = sorted(self._lengths.get(preset, ()))
        return lengths[int(USUAL_QUANTILE * len(lengths))] if len(lengths) >= MIN_LENGTHS else None
