"""Simulated time: what happens when, one thing after the other."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Events:
    def __init__(self) -> None:
        self.now_s = 0.0
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        """Of what happens at the same time, what was said first comes first."""
        heapq.heappush(self._coming, (when_s, next(self._order), act))

    def run(self) -> None:
        """Until nothing is to come."""
        while self._coming:
            self.now_s, _, act = heapq.heappop(self._coming)
            act()
