"""What a simulated fleet did: counts, percentiles, and series over time.

TTFT and TTFA (first answer token) run from the try that was let in, E2E from a client's first try,
so it holds what Retry-After made it wait. *Good*: TTFT and time per token (between first and last)
within the SLO. Goodput counts the good by when they end. All but the series count those who first
came after the warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.fleet.traffic import Generation
from benchmarks.fleet.world import World
from benchmarks.stats import percentile


@dataclass(frozen=True, slots=True)
class Series:
    """A value for each of `at_s`, the middle of its bucket."""

    at_s: list[float]
    offered_per_s: list[float]
    """First tries."""
    refused_per_s: list[float]
    """Refusals, first tries or not."""
    good_per_s: list[float]
    answered_per_s: list[float]
    ttft_p50_s: list[float]
    """By when they were let in or into the line, as the next."""
    ttft_p99_s: list[float]
    thinking_kept: list[float]
    """Likewise."""
    num_running: list[float]
    num_replicas: list[float]
    """Those that cost: starting, ready and leaving."""


@dataclass(frozen=True, slots=True)
class Outcome:
    num_came: int
    num_answered: int
    num_good: int
    num_gave_up: int
    """Refused as often as they tried."""
    num_failed: int
    """Broken streams that could not go on."""
    num_refused_at_first: int
    num_refusals: int
    num_moved: int
    """Answered after their replica died or left."""
    ttft_p50_s: float
    ttft_p99_s: float
    ttfa_p50_s: float
    ttfa_p99_s: float
    e2e_p50_s: float
    e2e_p99_s: float
    prefix_hits: float
    """Cached prompt tokens / prompt tokens."""
    thinking_kept: float
    """Of the tokens that the answered would have thought."""
    busy: float
    """Taken slots / the ready replicas' seats, averaged over looks; as is the next."""
    spread: float
    """Requests on the busiest replica / the mean."""
    replica_hours: float
    num_scalings: int
    series: Series


@dataclass(slots=True)
class Bucket:
    num_offered: int = 0
    num_refused: int = 0
    num_good: int = 0
    num_answered: int = 0
    ttft_s: list[float] = field(default_factory=list)
    natural_tokens: int = 0
    think_tokens: int = 0
    looks: list[tuple[int, int]] = field(default_factory=list)
    """(running in the routers, replicas)."""


class Recorder:
    def __init__(self, world: World) -> None:
        self._world = world
        self._buckets: list[Bucket] = []
        self._ttft_s: list[float] = []
        self._ttfa_s: list[float] = []
        self._e2e_s: list[float] = []
        self._num_came = self._num_good = self._num_gave_up = self._num_failed = 0
        self._num_refused_at_first = self._num_refusals = self._num_moved = 0
        self._prompt_tokens = self._hit_tokens = 0
        self._natural_tokens = self._think_tokens = 0
        self._busy: list[float] = []
        self._spreads: list[float] = []
        self._replica_s = 0.0
        self._looked_s = 0.0
        self.num_scalings = 0

    def came(self, generation: Generation) -> None:
        """For the first time."""
        self._bucket(generation.asked_s).num_offered += 1
        self._num_came += self._counts(generation)

    def refused(self, generation: Generation, now_s: float) -> None:
        self._bucket(now_s).num_refused += 1
        if self._counts(generation):
            self._num_refusals += 1
            self._num_refused_at_first += generation.num_tries == 1

    def gave_up(self, generation: Generation) -> None:
        self._num_gave_up += self._counts(generation)

    def failed(self, generation: Generation) -> None:
        self._num_failed += self._counts(generation)

    def began(self, generation: Generation, cached_tokens: int) -> None:
        """Its first leg."""
        if self._counts(generation):
            self._prompt_tokens += generation.prompt_tokens
            self._hit_tokens += cached_tokens

    def answered(self, generation: Generation, now_s: float) -> None:
        came_s, first_s = generation.came_s, generation.first_token_s
        answer_s = generation.first_answer_s
        assert first_s is not None
        assert answer_s is not None
        tpot_s = (now_s - first_s) / max(1, generation.output_tokens - 1)
        is_good = first_s - came_s <= self._world.slo_ttft_s and tpot_s <= self._world.slo_tpot_s
        ended, came = self._bucket(now_s), self._bucket(came_s)
        ended.num_answered += 1
        ended.num_good += is_good
        came.ttft_s.append(first_s - came_s)
        came.natural_tokens += generation.natural_tokens
        came.think_tokens += generation.think_tokens
        if self._counts(generation):
            self._num_good += is_good
            self._num_moved += generation.num_failovers > 0
            self._ttft_s.append(first_s - came_s)
            self._ttfa_s.append(answer_s - came_s)
            self._e2e_s.append(now_s - generation.asked_s)
            self._natural_tokens += generation.natural_tokens
            self._think_tokens += generation.think_tokens

    def looked(self, loads: Sequence[int], num_running: int, num_paid: int, now_s: float) -> None:
        """`loads`: requests on each ready replica."""
        world = self._world
        self._bucket(now_s).looks.append((num_running, num_paid))
        if now_s <= world.duration_s:
            self._replica_s += num_paid * (now_s - self._looked_s)
            self._looked_s = now_s
        total = sum(loads)
        if world.warm_up_s <= now_s <= world.duration_s and total:
            self._busy.append(num_running / (len(loads) * world.limits.max_num_seqs))
            self._spreads.append(max(loads) * len(loads) / total)

    def outcome(self) -> Outcome:
        ttft_s, ttfa_s, e2e_s = self._ttft_s, self._ttfa_s, self._e2e_s
        return Outcome(
            num_came=self._num_came,
            num_answered=len(e2e_s),
            num_good=self._num_good,
            num_gave_up=self._num_gave_up,
            num_failed=self._num_failed,
            num_refused_at_first=self._num_refused_at_first,
            num_refusals=self._num_refusals,
            num_moved=self._num_moved,
            ttft_p50_s=percentile(ttft_s, 50),
            ttft_p99_s=percentile(ttft_s, 99),
            ttfa_p50_s=percentile(ttfa_s, 50),
            ttfa_p99_s=percentile(ttfa_s, 99),
            e2e_p50_s=percentile(e2e_s, 50),
            e2e_p99_s=percentile(e2e_s, 99),
            prefix_hits=self._hit_tokens / max(1, self._prompt_tokens),
            thinking_kept=self._think_tokens / max(1, self._natural_tokens),
            busy=_mean(self._busy),
            spread=_mean(self._spreads),
            replica_hours=self._replica_s / 3600,
            num_scalings=self.num_scalings,
            series=self._series(),
        )

    def _counts(self, generation: Generation) -> bool:
        return generation.asked_s >= self._world.warm_up_s

    def _bucket(self, now_s: float) -> Bucket:
        index = int(now_s / self._world.bucket_s)
        while len(self._buckets) <= index:
            self._buckets.append(Bucket())
        return self._buckets[index]

    def _series(self) -> Series:
        bucket_s = self._world.bucket_s
        buckets = self._buckets[: int(self._world.duration_s / bucket_s)]
        return Series(
            at_s=[(index + 0.5) * bucket_s for index in range(len(buckets))],
            offered_per_s=[it.num_offered / bucket_s for it in buckets],
            refused_per_s=[it.num_refused / bucket_s for it in buckets],
            good_per_s=[it.num_good / bucket_s for it in buckets],
            answered_per_s=[it.num_answered / bucket_s for it in buckets],
            ttft_p50_s=[percentile(it.ttft_s, 50) for it in buckets],
            ttft_p99_s=[percentile(it.ttft_s, 99) for it in buckets],
            thinking_kept=[
                it.think_tokens / it.natural_tokens if it.natural_tokens else math.nan
                for it in buckets
            ],
            num_running=[_mean([look[0] for look in it.looks]) for it in buckets],
            num_replicas=[_mean([look[1] for look in it.looks]) for it in buckets],
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
