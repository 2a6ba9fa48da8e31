"""One choice of a generation: engine chunks in, released text and counts out. Pure.

It outlives legs: the split, the count of thinking tokens and stop strings go on where the last leg
broke off, or from a trace that the router closed.
"""

from __future__ import annotations

from array import array
from typing import Literal, get_args

from serve.plan import Plan
from serve.reasoning import TraceFormat, TraceSplitter, num_reasoning_tokens
from serve.repetition import LoopFinder, LoopLimits
from serve.stopping import StopFinder
from serve.wire import EngineChoice

Cut = Literal["budget", "length", "eos", "repetition"]
"""Why a leg ended before the answer did: the thinking budget, no tokens or context left, the model
stopped while thinking, or it went in circles."""
ThinkingEnd = Cut | Literal["model", "nothing"]
"""What closed a trace: one of the cuts, the model itself, or nothing did."""
THINKING_ENDS = ("model", *get_args(Cut), "nothing")
_CUTS: dict[str | None, Cut] = {"length": "length", "stop": "eos", "repetition": "repetition"}


class ChoiceState:
    __slots__ = (
        "_base",
        "_budget_spent",
        "_has_calls",
        "_loops",
        "_num_reasoning_untold",
        "_num_untold",
        "_reasoning_end",
        "_since",
        "cut",
        "ended",
        "finder",
        "finish_reason",
        "had_enough",
        "ids",
        "is_whole",
        "recovered",
        "recovers",
        "splitter",
        "thinks_until",
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
        self.thinks_until: int | None = None
        """At how many tokens the leg is to end if it is still thinking then: the budget."""
        self.ended = False
        self.finish_reason: str | None = None
        """The engine's word for how it ended; `"stop"` at a stop string of ours too."""
        self.is_whole = False
        """Whether the model itself ended the answer."""
        self.had_enough = False
        """Whether the rest of the leg is not wanted, though the engine would go on."""
        self.cut: Cut | None = None
        """Why the leg is over without the choice having ended: another one is to follow."""
        self.recovered: Cut | None = None
        """Why the trace was closed to get an answer."""
        self._budget_spent = False
        self._base = array("I")
        self._since = 0
        self._reasoning_end: int | None = None
        self._loops: LoopFinder | None = None
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
    def thinking_ended_by(self) -> ThinkingEnd:
        if self.recovered is not None:
            return self.recovered
        if self._budget_spent:
            return "budget"
        return "model" if self.splitter.answering else "nothing"

    @property
    def text_ids(self) -> array[int]:
        """The ids that the text so far consists of, for an engine to go on from."""
        return self._base + self.ids[self._since :]

    def watch_loops(self) -> None:
        """A trace that goes in circles is cut, if it isn't closed already."""
        self._loops = None if self.splitter.answering else LoopFinder(LoopLimits())
        if self._loops is not None:
            self._loops.feed(self.ids[1:])

    def continue_raw(self, num_ids: int) -> None:
        """What comes next is raw text that follows the first `num_ids` of `text_ids`."""
        del self.ids[self._since + max(0, num_ids - len(self._base)) :]
        if self._loops is not None:
            self.watch_loops()
        ids = self.text_ids
        self.splitter.expect_raw(
            opened=self.trace.open_id in ids, closed=self.trace.close_id in ids
        )

    def recover(self, room: int) -> str:
        """After a cut: an open trace is closed, its repetitions left out, its end too where it
        wouldn't fit into `room` ids. Returns what was held back of it."""
        ids, closing, close_id = (
            self.text_ids,
            array("I", self.trace.closing_ids),
            self.trace.close_id,
        )
        cut, self.cut, self.had_enough = self.cut, None, False
        if cut != "budget":
            self.recovered = cut
        elif self.splitter.answering:
            return ""
        else:
            self._budget_spent = True
        if self.splitter.answering and close_id is not None and close_id in ids:
            kept = ids[: ids.index(close_id)]  # no text of the answer yet, at most a part of this
        else:
            self._reasoning_end = len(self.ids) - (cut == "eos")
            end = len(ids) - (cut == "eos")
            if self._loops is not None and self._loops.found is not None:
                end = 1 + self._loops.found.first_end
            kept = ids[: min(end, max(0, room - len(closing)))]
        self._loops = None
        self._base, self._since = kept + closing, len(self.ids)
        return self.splitter.close()

    def take(self, choice: EngineChoice) -> None:
        """Counts the chunk's tokens and replaces its text by what may be released."""
        delta = choice.delta
        ids = choice.token_ids
        if ids is not None:
            # Without the first token loops are looked for where a whole reply's chunks of 16 end,
            # so that it is cut at the same place as a stream.
            seen = ids if self.ids else ids[1:]
            self.ids.extend(ids)
        elif delta.content or delta.reasoning or delta.reasoning_content:
            self._num_untold += 1
            self._num_reasoning_untold += not self.splitter.answering
        trace, answer = self.splitter.feed_split(
            delta.reasoning or delta.reasoning_content or "", delta.content or ""
        )
        if self._loops is not None and ids is not None:
            if self.splitter.answering:
                self._loops = None
            elif self._loops.feed(seen):
                self.cut, self.had_enough = "repetition", True
        if delta.tool_calls:
            self._has_calls = True
        if choice.finish_reason is not None:
            self.cut = self.cut or self._cut(choice)
            if self.cut is None:
                self.is_whole = choice.finish_reason == "stop" and choice.stop_reason is None
                last_trace, last_answer = self.splitter.finish()
                trace, answer = trace + last_trace, answer + last_answer
                self.ended, self.finish_reason = True, choice.finish_reason
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
        if (
            reason == "length"
            and self.thinks_until is not None
            and self.num_tokens >= self.thinks_until
        ):
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
            self.finish_reason = "stop"
        elif choice.finish_reason is not None:
            answer += finder.finish()
        return answer
