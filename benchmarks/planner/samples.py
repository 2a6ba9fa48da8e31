"""What a load test and its simulation are compared by: a line for each request, and the figures.

Times are seconds since the load began. Tokens count where they came: a reply's are taken as spread
evenly from its first to its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.stats import percentile


@dataclass(frozen=True, slots=True)
class Size:
    """Of one request, in tokens."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    size: Size
    sent_s: float
    first_s: float
    ended_s: float

    def share_within(self, begin_s: float, end_s: float) -> float:
        """Of its output tokens."""
        span_s = self.ended_s - self.first_s
        if span_s <= 0:
            return float(begin_s <= self.ended_s < end_s)
        return max(0.0, min(end_s, self.ended_s) - max(begin_s, self.first_s)) / span_s


@dataclass(frozen=True, slots=True)
class Figures:
    tokens_per_s: float
    requests_per_s: float
    """Those that ended."""
    e2e_p50_s: float
    ttft_p50_s: float
    num_requests: int
    """Sent within the time: those of the medians."""


def figures(samples: Sequence[Sample], begin_s: float, end_s: float) -> Figures:
    sent = [sample for sample in samples if begin_s <= sample.sent_s < end_s]
    tokens = sum(s.size.output_tokens * s.share_within(begin_s, end_s) for s in samples)
    ended = sum(begin_s <= sample.ended_s < end_s for sample in samples)
    return Figures(
        tokens_per_s=tokens / (end_s - begin_s),
        requests_per_s=ended / (end_s - begin_s),
        e2e_p50_s=percentile([sample.ended_s - sample.sent_s for sample in sent], 50),
        ttft_p50_s=percentile([sample.first_s - sample.sent_s for sample in sent], 50),
        num_requests=len(sent),
    )
