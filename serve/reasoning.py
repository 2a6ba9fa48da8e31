"""Splits a reasoning model's output into thinking and answer, incrementally. Pure.

The model writes `steps</think>answer`. Three things vary, and `TraceFormat` says which holds:
the chat template may have opened `<think>` already (DeepSeek-R1's does, so the output has no
opening tag), the model may open it itself, and the engine may have split the two already
(`vllm serve --reasoning-parser …` streams `reasoning` and `content`).

The result depends on the text alone, never on how it was cut into chunks. Rules:

- The first `</think>` ends the trace; later tags are text of the answer (it may quote them).
- A `<think>` that opens the output is dropped, also when the template had opened one before.
- The trace is given without the white space around it, the answer without blank lines before it.
- A trace that never closes is all trace, and the answer is empty.
- Where a trace was ended for the model, it may think on and end it again: that tag is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Literal

import msgspec

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"
CLOSING = f"\n{CLOSE_TAG}\n\n"
"""What stands between trace and answer in R1's own output."""

ReasoningFormat = Literal["parsed", "raw", "hidden"]


class TraceFormat(msgspec.Struct, frozen=True):
    """How one engine's output presents the trace."""

    opened_by_template: bool = True
    split_by_engine: bool = False
    open_id: int | None = None
    """Token id of `<think>`; None where it isn't a single token or isn't known."""
    close_id: int | None = None
    closing_ids: tuple[int, ...] = ()
    """Token ids of `CLOSING`, by which the router closes a trace; empty where they aren't known."""


class _Phase(Enum):
    START = auto()
    """Only white space, or the beginning of a tag, has come so far."""
    THINKING = auto()
    ANSWER_START = auto()
    """The trace is closed; blank lines before the answer are being dropped."""
    ANSWER = auto()


class TraceSplitter:
    """One choice's output, fed as it arrives. Amortised linear time; holds back only what may still
    turn out to be a tag, or white space to drop."""

    __slots__ = ("_by_engine", "_has_trace", "_held", "_may_close", "_opened", "_phase")

    def __init__(self, trace_format: TraceFormat) -> None:
        self._opened = trace_format.opened_by_template
        self._by_engine = trace_format.split_by_engine
        self._phase = _Phase.START
        self._held = ""
        self._has_trace = False
        self._may_close = False
        """Whether a closing tag may come in what counts as the answer."""

    @property
    def answering(self) -> bool:
        """Whether the trace is over: what comes now belongs to the answer."""
        return self._phase is _Phase.ANSWER or self._phase is _Phase.ANSWER_START

    @property
    def answered(self) -> bool:
        """Whether something of the answer has been released."""
        return self._phase is _Phase.ANSWER

    def feed(self, text: str) -> tuple[str, str]:
        """Raw output text (tags and all) → the (trace, answer) text that it releases."""
        if self._may_close and self.answering:
            return "", self._until_tag(text)
        if self._phase is _Phase.ANSWER:
            return "", text
        text = self._take_held() + text
        if self._phase is _Phase.START:
            text = self._start(text)
        if self._phase is _Phase.THINKING:
            end = text.find(CLOSE_TAG)
            if end < 0:
                return self._trace(text, held_tag=CLOSE_TAG), ""
            self._phase = _Phase.ANSWER_START
            return self._trace(text[:end]), self._answer(text[end + len(CLOSE_TAG) :])
        return "", self._answer(text) if self._phase is _Phase.ANSWER_START else ""

    def feed_split(self, reasoning: str, content: str) -> tuple[str, str]:
        """An engine's own `reasoning` and `content` → the (trace, answer) text that they release.

        An engine known to split that sends only `content` is taken at its word: that is answer.
        vLLM's splitter lets `</think>` slip into `content` when stop strings delay the text behind
        the token ids; such a tag is dropped.
        """
        phase = self._phase
        if phase is _Phase.ANSWER and not reasoning:
            return "", self._until_tag(content) if self._may_close else content
        if phase is _Phase.THINKING and not (content if self._by_engine else reasoning):
            text = self._held + (reasoning or content)
            if self._has_trace and text and "<" not in text and not text[-1].isspace():
                self._held = ""  # most chunks: what follows would release it all too, at more cost
                return text, ""
        if not self._by_engine:
            if not reasoning:
                return self.feed(content)
            self._by_engine = True
        trace = answer = ""
        if reasoning and not self.answering:
            text = self._take_held() + reasoning
            if self._phase is _Phase.START:
                text = self._start(text)
            if self._phase is not _Phase.START:
                self._phase = _Phase.THINKING
                trace = self._trace(text)
        if content:
            if not self.answering:
                trace += self._trace(self._take_held())
                self._phase, self._held = _Phase.ANSWER_START, ""
            answer = self._engine_answer(content)
        return trace, answer

    def expect_raw(self, *, opened: bool, closed: bool) -> None:
        """From here on the text comes raw, whoever split it so far. `opened`, `closed`: whether the
        token ids so far held `<think>` and `</think>`, which an engine that splits doesn't show."""
        self._by_engine = False
        if closed and not self.answering:
            self._phase, self._held = _Phase.ANSWER_START, ""
        elif opened and self._phase is _Phase.START:
            self._phase, self._held = _Phase.THINKING, ""

    def close(self) -> str:
        """The trace is over, though no tag says so: raw text of the answer follows. Returns what
        was held back of the trace."""
        held = self._take_held()
        trace = "" if self.answering else self._trace(held)
        self._by_engine = False
        self.expect_second_tag()
        self._phase, self._held = _Phase.ANSWER_START, ""
        return trace

    def expect_second_tag(self) -> None:
        """The trace ends where the model didn't mean to: it may think on and close it itself."""
        self._may_close = True

    def finish(self) -> tuple[str, str]:
        """The output has ended: releases what was held back, if it is text after all."""
        held = self._take_held()
        if self._may_close and self._phase is _Phase.ANSWER:
            return "", held
        if self._phase is _Phase.THINKING or (
            self._phase is _Phase.START and (self._opened or self._by_engine)
        ):
            return self._trace(held), ""
        return "", self._answer(held)

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held

    def _start(self, text: str) -> str:
        """Decides what the output begins with, or holds it back and stays at START."""
        body = text.lstrip()
        if len(body) < len(OPEN_TAG) and OPEN_TAG.startswith(body):
            self._held = text
            return ""
        if body.startswith(OPEN_TAG):
            self._phase = _Phase.THINKING
            return body[len(OPEN_TAG) :]
        self._phase = _Phase.THINKING if self._opened else _Phase.ANSWER_START
        return text

    def _trace(self, text: str, held_tag: str = "") -> str:
        """The trace text to release; its trailing white space and a tail that may be the beginning
        of `held_tag` are held back."""
        if not self._has_trace:
            text = text.lstrip()
        cut = len(text)
        if held_tag:
            last = text.rfind("<", max(0, cut - len(held_tag) + 1))
            if last >= 0 and held_tag.startswith(text[last:]):
                cut = last
        released = text[:cut].rstrip()
        self._held = text[len(released) :]
        self._has_trace = self._has_trace or bool(released)
        return released

    def _answer(self, text: str) -> str:
        body = text.lstrip()
        if not body:
            self._held = text
            return ""
        self._phase = _Phase.ANSWER
        indent = text[: len(text) - len(body)]
        return indent[indent.rfind("\n") + 1 :] + body

    def _until_tag(self, text: str) -> str:
        """The answer's text up to a closing tag, which is dropped, and after it. A tail that may be
        the beginning of one is held back."""
        text = self._take_held() + text
        at = text.find(CLOSE_TAG)
        if at >= 0:
            self._may_close = False
            text = text[:at] + text[at + len(CLOSE_TAG) :]
            return text if self._phase is _Phase.ANSWER else self._answer(text)
        last = text.rfind("<", max(0, len(text) - len(CLOSE_TAG) + 1))
        cut = last if last >= 0 and CLOSE_TAG.startswith(text[last:]) else len(text)
        released = text[:cut] if self._phase is _Phase.ANSWER else self._answer(text[:cut])
        self._held += text[cut:]
        return released

    def _engine_answer(self, content: str) -> str:
        if self._phase is _Phase.ANSWER:
            return content
        text = self._take_held() + content
        body = text.lstrip()
        if len(body) < len(CLOSE_TAG) and CLOSE_TAG.startswith(body):
            self._held = text
            return ""
        text = body[len(CLOSE_TAG) :] if body.startswith(CLOSE_TAG) else text
        return self._until_tag(text) if self._may_close else self._answer(text)


def num_reasoning_tokens(ids: Sequence[int], trace_format: TraceFormat) -> int:
    """How many of an output's ids stand between `<think>` and the first `</think>`, the tags
    themselves excluded (the definition of vLLM's `count_reasoning_tokens`), also where the template
    opened the tag."""
    open_id = trace_format.open_id
    begin = 0 if trace_format.opened_by_template else _index(ids, open_id)
    trace = ids[begin : _index(ids, trace_format.close_id)]
    return len(trace) - (0 if open_id is None else trace.count(open_id))


def _index(ids: Sequence[int], token_id: int | None) -> int:
    """Where the id stands first; their number where it doesn't."""
    try:
        return len(ids) if token_id is None else ids.index(token_id)
    except ValueError:
        return len(ids)
