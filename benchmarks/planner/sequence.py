"""What the simulated engine works on: its limits, requests, and the state of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can hold."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int
    block_tokens: int = 16
    chunked_prefill: bool = True
    """Without it a prompt is read in one step or waits for one with room."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_num_seqs <= self.max_num_batched_tokens:
            raise ValueError("1 <= max_num_seqs <= max_num_batched_tokens must hold, as in vLLM")


@dataclass(slots=True, eq=False)
class Request:
    """`think_tokens` come before `answer_tokens`; together at least one."""

    arrived_s: float
    prompt_tokens: int
    think_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    priority: int = 0
    started_s: float | None = None
    first_token_s: float | None = None
    first_answer_s: float | None = None
    ended_s: float | None = None
    num_preemptions: int = 0

    @property
    def output_tokens(self) -> int:
        return self.think_tokens + self.answer_tokens


@dataclass(slots=True, eq=False)
class Sequence:
    """A request as the engine's scheduler holds it."""

    request: Request
    key: tuple[int, float, int]
    """The order of admission; the greatest is preempted first."""
    num_outputs: int = 0
    """While it does not decode; then it is `Engine._num_steps` - `base`."""
    to_read: int = 0
    """Tokens of the prompt (and of what was generated before a preemption) still to read."""
    base: int = 0
    phase: int | None = None
    """While it decodes: see `KvBlocks`."""
    run: int = 0
    """Counts its starts: events of an earlier one are void."""

    @property
    def num_tokens(self) -> int:
        return self.request.prompt_tokens + self.num_outputs

    @property
    def tokens_to_read(self) -> int:
        """At its admission; the last token is always read."""
        return max(1, self.num_tokens - self.request.cached_tokens)
