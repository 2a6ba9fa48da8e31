"""How long a generation may think, and why just so long. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from serve.presets import BUDGET, Preset, PresetBook
from serve.protocol import ChatRequest

BudgetSource = Literal[
    "request", "reasoning_effort", "preset", "answer_reserve", "brownout", "none"
]


class Budget(msgspec.Struct, frozen=True):
    """At most so many tokens of thinking; None is no limit. `source` says what set it."""

    tokens: int | None = None
    source: BudgetSource = "none"

    def within(self, max_tokens: int, reserve: int) -> Budget:
        """The budget that leaves `reserve` of `max_tokens` for the answer."""
        most = max_tokens - reserve
        if self.tokens is not None and self.tokens <= most:
            return self
        return Budget(most, "answer_reserve") if reserve else self

    def capped(self, cap: Callable[[int], int], max_tokens: int) -> Budget:
        """The budget that `cap` leaves of this one (`serve.brownout`)."""
        wanted = max_tokens if self.tokens is None else self.tokens
        tokens = cap(wanted)
        return Budget(tokens, "brownout") if tokens < wanted else self


def asked_budget(request: ChatRequest, preset: Preset, book: PresetBook) -> Budget:
    """What the request or its preset asks for."""
    if preset.thinking_token_budget is not None and BUDGET in preset.pinned:
        return Budget(preset.thinking_token_budget, "preset")
    if request.thinking_token_budget is not None:
        return Budget(request.thinking_token_budget, "request")
    if request.reasoning_effort is not None:
        return Budget(book.reasoning_effort.get(request.reasoning_effort), "reasoning_effort")
    if preset.thinking_token_budget is not None:
        return Budget(preset.thinking_token_budget, "preset")
    return Budget()


RESERVE_MARGIN = 1.25
"""Times the usual answer: one to a trace that was cut off may be longer."""


def answer_reserve(most_tokens: int, max_tokens: int, usual_tokens: int | None = None) -> int:
    """What of `max_tokens` is kept for the answer. `most_tokens` until it is known how long answers
    usually are: what is kept for nothing is taken from thinking. And hardly more than half, so that
    small limits leave room to think as well."""
    wanted = most_tokens
    if usual_tokens is not None:
        wanted = min(most_tokens, math.ceil(RESERVE_MARGIN * usual_tokens))
    return min(wanted, (max_tokens + 1) // 2)
