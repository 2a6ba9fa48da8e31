"""One choice of a generation: engine chunks in, released text and counts out. Pure.

It outlives legs: the split, the count of thinking tokens and stop strings go on where the last leg
broke off.
"""

from __future__ import annotations

from array import array

from serve.presets import Plan
from serve.reasoning import TraceFormat, TraceSplitter, num_reasoning_tokens
from serve.stopping import StopFinder
from serve.wire import EngineChoice


class ChoiceState:
    __slots__ = (
        "_num_reasoning_untold",
        "_num_untold",
        "_trace",
        "ended",
        "finder",
        "ids",
        "splitter",
    )

    def __init__(self, trace: TraceFormat, plan: Plan) -> None:
        self._trace = trace
        self.splitter = TraceSplitter(trace)
        self.finder = StopFinder(plan.stop, include=plan.include_stop) if plan.stop else None
        self.ids = array("I")
        self.ended = False
        self._num_untold = self._num_reasoning_untold = 0  # chunks whose ids the engine didn't tell

    @property
    def num_tokens(self) -> int:
        return len(self.ids) + self._num_untold

    @property
    def num_reasoning_tokens(self) -> int:
        return num_reasoning_tokens(self.ids, self._trace) + self._num_reasoning_untold

    def continue_raw(self, num_ids: int) -> None:
        """What comes next is raw text that follows the first `num_ids` ids."""
        ids = self.ids = self.ids[:num_ids]
        self.splitter.expect_raw(
            opened=self._trace.open_id in ids, closed=self._trace.close_id in ids
        )

    def take(self, choice: EngineChoice) -> None:
        """Counts the chunk's tokens and replaces its text by what may be released."""
        delta = choice.delta
        if choice.token_ids is not None:
            self.ids.extend(choice.token_ids)
        elif delta.content or delta.reasoning or delta.reasoning_content:
            self._num_untold += 1
            self._num_reasoning_untold += not self.splitter.answering
        trace, answer = self.splitter.feed_split(
            delta.reasoning or delta.reasoning_content or "", delta.content or ""
        )
        if choice.finish_reason is not None:
            last_trace, last_answer = self.splitter.finish()
            trace, answer = trace + last_trace, answer + last_answer
            self.ended = True
        if self.finder is not None:
            answer = self._until_stop(choice, answer, self.finder)
        delta.reasoning, delta.content = trace, answer

    def _until_stop(self, choice: EngineChoice, answer: str, finder: StopFinder) -> str:
        answer = finder.feed(answer)
        if finder.found is not None:
            choice.finish_reason, choice.stop_reason = "stop", finder.found
            self.ended = True
        elif choice.finish_reason is not None:
            answer += finder.finish()
        return answer
