"""What clients ask: conversations and the generations that their turns are. Deterministic: what
one conversation asks follows from its number alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from benchmarks.fleet.world import Lengths, Traffic
from benchmarks.planner.engine_sim import Request

MAX_TOKENS = 8192
"""What a request asks for at most, thinking included; nobody names a thinking budget."""
LONG_OPENING_TOKENS = 4000


class Conversation:
    def __init__(self, traffic: Traffic, number: int, seed: int) -> None:
        self.number = number
        self._traffic = traffic
        self.rng = rng = random.Random((seed << 41) + number)
        is_alike = rng.random() < traffic.share_with_one_opening
        num = traffic.num_applications
        self.application = num if is_alike else rng.randrange(num)
        self.system_tokens = LONG_OPENING_TOKENS if is_alike else _system_tokens(self.application)
        has_document = not is_alike and rng.random() < traffic.share_with_document
        self._tokens = self.system_tokens + (rng.randint(2000, 12_000) if has_document else 0)
        more = traffic.mean_turns - 1
        self._turns_left = 1 + (int(rng.expovariate(1 / more)) if more > 0 else 0)
        self.key = b"alike" if is_alike else number.to_bytes(8, "big")

    def turn(self, now_s: float) -> Generation | None:
        """The next one, asked now; None where it is over."""
        if not self._turns_left:
            return None
        self._turns_left -= 1
        self._tokens += self.rng.randint(30, 300)
        answer = self._drawn(self._traffic.answer, MAX_TOKENS // 2)
        thinking = self._drawn(self._traffic.thinking, MAX_TOKENS - answer)
        who = self.number << 16 | self._turns_left
        asked = Generation(self, who, now_s, self._tokens, thinking, thinking, answer)
        self._tokens += answer
        return asked

    def pause_s(self) -> float:
        return self.rng.expovariate(1 / self._traffic.pause_s)

    def _drawn(self, lengths: Lengths, most: int) -> int:
        drawn = lengths.median * math.exp(self.rng.gauss(0, lengths.sigma))
        return max(1, min(most, round(drawn)))


def _system_tokens(application: int) -> int:
    return random.Random(application).randint(100, 1500)


@dataclass(slots=True, eq=False)
class Generation:
    """One turn, from the client's first try to its end: one leg after the other, each a request
    to an engine."""

    conversation: Conversation
    who: int
    """Tells it from all others."""
    asked_s: float
    """The first try."""
    prompt_tokens: int
    natural_tokens: int
    """So long it would think."""
    think_tokens: int
    """So long it may think: less where it is cut."""
    answer_tokens: int
    is_capped: bool = False
    router: int = -1
    came_s: float = 0.0
    """The latest try."""
    num_tries: int = 0
    num_failovers: int = 0
    replica_url: str | None = None
    """Of its latest leg."""
    failed: set[str] = field(default_factory=set)
    """Replicas that died under it."""
    num_done: int = 0
    """Tokens so far, of all legs that have ended."""
    first_token_s: float | None = None
    first_answer_s: float | None = None

    @property
    def is_cut(self) -> bool:
        return self.think_tokens < self.natural_tokens

    @property
    def output_tokens(self) -> int:
        return self.think_tokens + self.answer_tokens

    @property
    def context_tokens(self) -> int:
        """What the next leg has for a prompt."""
        return self.prompt_tokens + self.num_done

    def leg(self, now_s: float, cached_tokens: int) -> Request:
        """The next one. Where thinking is cut the engine ends it there, and one more leg answers
        (`serve.generation`'s recovery)."""
        thinking = max(0, self.think_tokens - self.num_done)
        answer = self.output_tokens - max(self.num_done, self.think_tokens)
        return Request(
            now_s,
            self.context_tokens,
            thinking,
            0 if self.is_cut and thinking else answer,
            cached_tokens=min(cached_tokens, self.context_tokens - 1),
        )

    def took(self, leg: Request, num_tokens: int) -> None:
        """So much came of a leg that is over."""
        if num_tokens and self.first_token_s is None:
            self.first_token_s = leg.first_token_s
        if self.first_answer_s is None:
            at_once = leg.think_tokens == 0 and num_tokens > 0
            self.first_answer_s = leg.first_token_s if at_once else leg.first_answer_s
        self.num_done += num_tokens
