"""How long a generation may think, and why just so long. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from serve.presets import BUDGET, Preset, PresetBook
from serve.protocol import ChatRequest


class Budget(msgspec.Struct, frozen=True):
    """At most so many tokens of thinking; None is no limit. `source` says what set it."""

    tokens: int | None = None
    source: Literal["request", "reasoning_effort", "preset", "answer_reserve", "none"] = "none"

    def within(self, max_tokens: int, reserve: int) -> Budget:
        """The budget that leaves `reserve` of `max_tokens` for the answer."""
        most = max_tokens - reserve
        if self.tokens is not None and self.tokens <= most:
            return self
        return Budget(most, "answer_reserve") if reserve else self


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


def answer_reserve(wanted_tokens: int, max_tokens: int) -> int:
    """What of `max_tokens` is kept for the answer: `wanted_tokens`, but hardly more than half, so
    that small limits leave room to think as well."""
    return min(wanted_tokens, (max_tokens + 1) // 2)
