"""One choice of a generation: engine chunks in, released text and counts out. Pure.

It outlives legs: the split, the count of thinking tokens and stop strings go on where the last leg
broke off, or from a trace that the router closed.
"""

from __future__ import annotations

from array import array
from typing import Literal

from serve.plan import Plan
from serve.reasoning import TraceFormat, TraceSplitter, num_reasoning_tokens
from serve.stopping import StopFinder
from serve.wire import EngineChoice

Cut = Literal["budget", "length", "eos", "repetition"]
"""Why a leg ended before the answer did: the thinking budget of an engine that doesn't keep it
itself, no tokens left, the model stopped while thinking, or it went in circles."""
_CUTS: dict[str | None, Cut] = {"length": "length", "stop": "eos", "repetition": "repetition"}


class ChoiceState:
    __slots__ = (
        "_base",
        "_has_calls",
        "_num_reasoning_untold",
        "_num_untold",
        "_reasoning_end",
        "_since",
        "cut",
        "ended",
        "finder",
        "had_enough",
        "ids",
        "is_bounded",
        "recovered",
        "recovers",
        "splitter",
        "trace",
    )

    def __init__(self, trace: TraceFormat, plan: Plan) -> None:
        self.trace = trace
        self.splitter = TraceSplitter(trace)
        self.finder = StopFinder(plan.stop, include=plan.include_stop) if plan.stop else None
        self.ids = array("I")
        """What engines generated."""
        self.recovers = False
        """Whether a trace that ends without an answer is continued to one."""
        self.is_bounded = False
        """Whether the leg's max_tokens is the thinking budget."""
        self.ended = False
        self.had_enough = False
        """Whether the rest of the leg is not wanted, though the engine would go on."""
        self.cut: Cut | None = None
        """Why the leg is over without the choice having ended: another one is to follow."""
        self.recovered: Cut | None = None
        """Why the trace was closed to get an answer."""
        self._base = array("I")
        self._since = 0
        self._reasoning_end: int | None = None
        self._has_calls = False
        self._num_untold = self._num_reasoning_untold = 0  # chunks whose ids the engine didn't tell

    @property
    def num_tokens(self) -> int:
        return len(self.ids) + self._num_untold

    @property
    def is_exact(self) -> bool:
        """Whether the counts are of tokens; else some are of chunks."""
        return not self._num_untold

    @property
    def num_reasoning_tokens(self) -> int:
        ids = self.ids[: self._reasoning_end]
        return num_reasoning_tokens(ids, self.trace) + self._num_reasoning_untold

    @property
    def text_ids(self) -> array[int]:
        """The ids that the text so far consists of, for an engine to go on from."""
        return self._base + self.ids[self._since :]

    def continue_raw(self, num_ids: int) -> None:
        """What comes next is raw text that follows the first `num_ids` of `text_ids`."""
        del self.ids[self._since + max(0, num_ids - len(self._base)) :]
        self.cut, self.had_enough = None, False
        ids = self.text_ids
        self.splitter.expect_raw(
            opened=self.trace.open_id in ids, closed=self.trace.close_id in ids
        )

    def recover(self, room: int) -> str:
        """After a cut: an open trace is closed, and cut short where it wouldn't fit into `room`
        ids. Returns what was held back of it."""
        ids, closing, close_id = (
            self.text_ids,
            array("I", self.trace.closing_ids),
            self.trace.close_id,
        )
        if self.cut != "budget":
            self.recovered = self.cut
        elif self.splitter.answering:
            return ""
        if self.splitter.answering and close_id is not None and close_id in ids:
            kept = ids[: ids.index(close_id)]  # no text of the answer yet, at most a part of this
        else:
            self._reasoning_end = len(self.ids) - (self.cut == "eos")
            kept = ids[: min(len(ids) - (self.cut == "eos"), max(0, room - len(closing)))]
        self._base, self._since = kept + closing, len(self.ids)
        return self.splitter.close()

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
        if delta.tool_calls:
            self._has_calls = True
        if choice.finish_reason is not None:
            self.cut = self._cut(choice)
            if self.cut is None:
                last_trace, last_answer = self.splitter.finish()
                trace, answer = trace + last_trace, answer + last_answer
                self.ended = True
            else:
                choice.finish_reason = choice.stop_reason = None
        if self.finder is not None:
            answer = self._until_stop(choice, answer, self.finder)
        delta.reasoning, delta.content = trace, answer

    def _cut(self, choice: EngineChoice) -> Cut | None:
        """Why an answer is still to come though the leg has ended; None where it is not."""
        reason, thinking = choice.finish_reason, not self.splitter.answering
        if self._num_untold or self._has_calls or not self.trace.closing_ids:
            return None
        if self.is_bounded and reason == "length":
            return "budget"
        if not self.recovers or self.recovered or self.splitter.answered:
            return None
        if reason == "stop" and (choice.stop_reason is not None or not thinking):
            return None
        return _CUTS.get(reason)

    def _until_stop(self, choice: EngineChoice, answer: str, finder: StopFinder) -> str:
        answer = finder.feed(answer)
        if finder.found is not None:
            choice.finish_reason, choice.stop_reason = "stop", finder.found
            self.ended, self.had_enough, self.cut = True, True, None
        elif choice.finish_reason is not None:
            answer += finder.finish()
        return answer
