"""Who asks how much, and what they want to wait at most. Pure; randomness is passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from benchmarks.planner.sequence import Request

SPREAD = 0.6
"""The sigma of the lognormal lengths, about that of real thinking."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Either `users`, each of whom sends, reads the reply to its end, pauses for `pause_s` on
    average and sends again; or `rate` requests a second, whatever becomes of the earlier ones.
    Lengths are means, in tokens; what would not fit into `context` is cut."""

    users: int | None = None
    rate: float | None = None
    pause_s: float = 30.0
    prompt_tokens: int = 300
    think_tokens: int = 2000
    answer_tokens: int = 300
    context: int = 32768

    @property
    def load(self) -> float:
        return float(self.users or self.rate or 0)

    def with_load(self, load: float) -> Demand:
        if self.users is None:
            return replace(self, rate=load)
        return replace(self, users=max(1, round(load)))

    def request(self, arrived_s: float, rng: Random) -> Request:
        prompt = min(_drawn(self.prompt_tokens, rng), self.context - 2)
        think = min(_drawn(self.think_tokens, rng), self.context - prompt - 1)
        answer = min(_drawn(self.answer_tokens, rng), self.context - prompt - think)
        return Request(arrived_s, max(1, prompt), think, max(answer, 0 if think else 1))


def _drawn(mean: int, rng: Random) -> int:
    """At least one, where there are any."""
    return max(1, round(mean * rng.lognormvariate(-(SPREAD**2) / 2, SPREAD))) if mean else 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one request that has ended, as its client sees it."""

    ttft_s: float
    ttfa_s: float | None
    tpot_s: float
    e2e_s: float


def latency_of(request: Request) -> Latency:
    if request.first_token_s is None or request.ended_s is None:
        raise ValueError("the request has not ended")
    arrived_s, first_s, ended_s = request.arrived_s, request.first_token_s, request.ended_s
    answer_s = request.first_answer_s
    return Latency(
        ttft_s=first_s - arrived_s,
        ttfa_s=None if answer_s is None else answer_s - arrived_s,
        tpot_s=(ended_s - first_s) / max(1, request.output_tokens - 1),
        e2e_s=ended_s - arrived_s,
    )
