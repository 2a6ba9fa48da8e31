"""How long a request has taken, and when its text came."""

from __future__ import annotations

import time


class Stopwatch:
    """When a request's first text and first answer text came, in seconds since it began."""

    __slots__ = ("_start_s", "first_answer_s", "first_token_s")

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self.first_token_s: float | None = None
        self.first_answer_s: float | None = None

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start_s
