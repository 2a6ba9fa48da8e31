"""What users are promised: limits on a request's latencies, and which share must keep to them."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Latencies(Protocol):
    """Of one request that has ended; None where there is none."""

    @property
    def ttft_s(self) -> float | None: ...
    @property
    def tpot_s(self) -> float | None: ...
    @property
    def ttfa_s(self) -> float | None: ...
    @property
    def e2e_s(self) -> float | None: ...


class Slo(msgspec.Struct, frozen=True):
    """A None asks for nothing. The first two default to MLPerf's limits for servers."""

    ttft_ms: float | None = 2000.0
    tpot_ms: float | None = 80.0
    ttfa_ms: float | None = None
    e2e_ms: float | None = None
    share: float = 0.95
    """Of the requests, for a load to count as carried."""

    def kept_by(self, seen: Latencies) -> bool:
        """Whether a request kept to all limits. What it never came to (an answer, where there is a
        limit on that) doesn't; a reply of one token has no time per token and does."""
        pairs = (
            (self.ttft_ms, seen.ttft_s),
            (self.tpot_ms, seen.tpot_s or 0.0),
            (self.ttfa_ms, seen.ttfa_s),
            (self.e2e_ms, seen.e2e_s),
        )
        return all(
            limit is None or (value is not None and 1000 * value <= limit) for limit, value in pairs
        )

    @property
    def text(self) -> str:
        named = (
            ("TTFT", self.ttft_ms),
            ("TPOT", self.tpot_ms),
            ("TTFA", self.ttfa_ms),
            ("E2E", self.e2e_ms),
        )
        return ", ".join(f"{name} {ms:g} ms" for name, ms in named if ms is not None) or "none"
