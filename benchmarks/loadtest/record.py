"""What is known of one request after it has ended: the raw material of every figure.

All times are seconds since the step began, by the client's clock. `due_at_s` is when the schedule
wanted the request sent: in an open loop latencies count from there, so that a client that can't
keep up makes them longer instead of hiding them (coordinated omission). In a closed loop it is when
it was sent.
"""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, omit_defaults=True):
    tenant: str
    due_at_s: float
    turn: int = 0
    sent_at_s: float = 0.0
    first_at_s: float | None = None
    """First chunk with text, of the trace or the answer."""
    answer_at_s: float | None = None
    """First chunk with text of the answer."""
    ended_at_s: float | None = None
    """The reply's last byte; None where the client hung up before it."""
    left_at_s: float | None = None
    """When the client hung up; its latencies are at least what they were until then."""
    status: int = 0
    """0: no connection, or lost before the headers."""
    done: bool = False
    """Whether the stream ended as it should."""
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    num_events: int = 0
    has_content: bool = False
    recovered: str = ""
    """What the router recovered the answer from (`r1.recovered`); empty where it had not to."""
    num_failovers: int = 0
    retry_after_s: float | None = None
    """When a refused client was told to come back."""
    budget_source: str = ""
    """What set the thinking budget, by the router's header."""
    right: bool | None = None
    """Whether the answer is the task's; None where that can't be told."""

    @property
    def ok(self) -> bool:
        """Ended as it should: also vLLM ends a stream that failed midway with `[DONE]`."""
        return self.status == 200 and self.done and not self.error

    @property
    def refused(self) -> bool:
        return self.status in (429, 503)

    @property
    def answered(self) -> bool:
        """Came to an end of its own with an answer."""
        return self.ok and self.has_content

    @property
    def truncated(self) -> bool:
        """Ended at a limit: the answer, or the trace, is cut off."""
        return self.ok and self.finish_reason in ("length", "repetition")

    @property
    def unfinished(self) -> bool:
        """Neither ended nor failed: the client hung up, or still waits."""
        return self.ended_at_s is None and not self.error

    @property
    def ttft_s(self) -> float | None:
        return self._since_due(self.first_at_s)

    @property
    def ttfa_s(self) -> float | None:
        return self._since_due(self.answer_at_s)

    @property
    def e2e_s(self) -> float | None:
        return self._since_due(self.ended_at_s)

    def _since_due(self, at_s: float | None) -> float | None:
        at_s = self.left_at_s if at_s is None else at_s
        return None if at_s is None else at_s - self.due_at_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for replies of one token."""
        if self.ended_at_s is None or self.first_at_s is None or self.output_tokens < 2:
            return None
        return (self.ended_at_s - self.first_at_s) / (self.output_tokens - 1)
