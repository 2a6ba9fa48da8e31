"""What generations came to: the tokens that they took, and how they went."""

from __future__ import annotations

import msgspec

from serve.choice import ThinkingEnd


class Usage(msgspec.Struct):
    """Tokens of one generation, or of several together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int | None = None


class Phases(msgspec.Struct, frozen=True):
    """How one generation went."""

    num_thinking_tokens: int
    num_answer_tokens: int
    thinking_ended_by: ThinkingEnd
    finish_reason: str | None
    """None: it was not finished."""
    is_whole: bool
    """Whether the model itself ended the answer."""
