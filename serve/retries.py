"""How many retries the router may make, so that they can't turn a fault into a storm. Pure."""

from __future__ import annotations

SHARE = 0.2
"""Retries per request that is sent, in the long run."""
RESERVE = 256
"""Enough for every stream of one replica (vLLM's default `max_num_seqs`) to move once."""
REFILL_S = 60.0
"""The reserve comes back in this time, also with few requests: streams of a thinking model last
minutes, so that a busy router may send only a few a second."""


class RetryBudget:
    """A token bucket: each request puts in `share`, each retry takes one."""

    def __init__(
        self, share: float = SHARE, reserve: int = RESERVE, refill_s: float = REFILL_S
    ) -> None:
        self._share = share
        self._most = float(reserve)
        self._per_second = reserve / refill_s
        self._left = self._most
        self._refilled_at_s: float | None = None

    def request(self) -> None:
        """A request is sent for the first time."""
        self._left = min(self._most, self._left + self._share)

    def take(self, now_s: float) -> bool:
        """Whether one retry may be made now."""
        last_s = now_s if self._refilled_at_s is None else self._refilled_at_s
        self._refilled_at_s = now_s
        self._left = min(self._most, self._left + (now_s - last_s) * self._per_second)
        if self._left < 1:
            return False
        self._left -= 1
        return True
