"""What is simulated: the fleet, what comes to it, and what happens to it.

Times in seconds of simulated time. Everything random follows from `seed`, and what clients ask does
not depend on how they are served, so that two worlds with the same traffic can be compared.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

from benchmarks.planner.engine_sim import Limits
from benchmarks.planner.step_times import StepTimes
from serve.balancing import Balancing
from serve.settings import AutoscaleSettings, BrownoutSettings

Curve = tuple[tuple[float, float], ...]
"""(time, factor), in order of time; straight lines between them, flat outside."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal, in tokens."""

    median: float
    sigma: float

    @property
    def mean(self) -> float:
        return self.median * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Conversations begin as a Poisson process whose rate follows `rate`. Each has the system text
    of an application, maybe a document, and one or more turns; R1's template drops the thinking of
    earlier turns from a prompt."""

    conversations_per_s: float
    rate: Curve = ((0.0, 1.0),)
    mean_turns: float = 1.0
    pause_s: float = 20.0
    num_applications: int = 30
    share_with_document: float = 0.0
    share_with_one_opening: float = 0.0
    """Conversations with the same long opening (votes, a few-shot benchmark): one affinity key."""
    thinking: Lengths = Lengths(1200, 0.8)
    answer: Lengths = Lengths(200, 0.6)

    def per_s(self, now_s: float) -> float:
        return self.conversations_per_s * at(self.rate, now_s)

    @property
    def most_per_s(self) -> float:
        return self.conversations_per_s * max(factor for _, factor in self.rate)


def at(curve: Curve, now_s: float) -> float:
    index = bisect_right(curve, (now_s, math.inf))
    if index in (0, len(curve)):
        return curve[min(index, len(curve) - 1)][1]
    (x0, y0), (x1, y1) = curve[index - 1], curve[index]
    return y0 + (y1 - y0) * (now_s - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Fault:
    """A share of the replicas dies at once, with all that they run and have cached."""

    at_s: float
    share: float


@dataclass(frozen=True, slots=True)
class World:
    traffic: Traffic
    step_times: StepTimes
    limits: Limits
    num_replicas: int = 1000
    num_routers: int = 8
    balancing: Balancing = "prefix_affinity"
    share_slow: float = 0.0
    slowness: float = 2.0
    """Of these replicas: so many times the time of every step."""
    cache_tokens: int = 400_000
    """Of each replica's prefix cache, beside what runs."""
    scrape_s: float = 2.0
    """How often a router looks at each engine (`router.probe_interval_s`)."""
    queue_timeout_s: float = 10.0
    slots_per_seat: float = 1.0
    """Slots of all routers together for each seat on the engines."""
    max_in_flight_per_replica: int | None = None
    """Of one router, as in its settings."""
    brownout: BrownoutSettings = field(default_factory=BrownoutSettings)
    autoscale: AutoscaleSettings | None = None
    """From the end of the warm-up on."""
    startup_s: float = 90.0
    drain_s: float = 120.0
    """After it, what a replica that leaves still runs goes on elsewhere
    (`engine.shutdown_timeout_s`)."""
    fault: Fault | None = None
    restart_s: float = 90.0
    """Until a dead replica is back."""
    max_tries: int = 3
    """Of a client that is told to come back (OpenAI's SDKs: the first and two more)."""
    retries_come_home: bool = True
    """Who comes back finds the router that told him to, as on a kept connection."""
    slo_ttft_s: float = 10.0
    slo_tpot_s: float = 0.05
    duration_s: float = 300.0
    """Nobody comes after it; those who are there are served to the end."""
    warm_up_s: float = 90.0
    """Who comes before it isn't counted."""
    bucket_s: float = 10.0
    """Of the series over time."""
    seed: int = 1

    @property
    def max_in_flight(self) -> int:
        """Of one router."""
        replicas = self.num_replicas
        if self.autoscale is not None:
            replicas = self.autoscale.max_replicas or replicas
        num_slots = replicas * self.limits.max_num_seqs * self.slots_per_seat
        return math.ceil(num_slots / self.num_routers)

    @property
    def max_queued(self) -> int:
        """A quarter of the slots, as by default (256 of 1,024)."""
        return math.ceil(self.max_in_flight / 4)
