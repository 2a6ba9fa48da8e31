"""What the client sees of a chat: the chunks of a stream, or the whole reply. Pure.

`StreamReply` encodes choice by choice into bytes whose constant parts are made once per request;
`WholeReply` folds the same choices, so that both forms carry the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from serve.forms import Sampled
from serve.plan import Plan
from serve.reasoning import CLOSE_TAG, OPEN_TAG, ReasoningFormat
from serve.sse import DONE_EVENT
from serve.usage import Usage
from serve.wire import EngineChoice

_dumps = msgspec.json.encode
_END = b',"finish_reason":null}]}\n\n'


class Head(msgspec.Struct, frozen=True):
    """What every chunk and reply of a request begins with."""

    id: str
    created: int
    model: str
    reasoning_fields: Sequence[str]


class _View:
    """(trace, answer) as `reasoning_format` wants them, for one choice."""

    __slots__ = ("_format", "_in_trace")

    def __init__(self, reasoning_format: ReasoningFormat) -> None:
        self._format = reasoning_format
        self._in_trace: bool | None = None

    def of(self, trace: str, answer: str) -> tuple[str, str]:
        if self._format == "parsed":
            return trace, answer
        if self._format == "hidden":
            return "", answer
        text = ""
        if trace or (answer and self._in_trace is None):
            text = trace if self._in_trace else f"{OPEN_TAG}\n{trace}"
            self._in_trace = True
        if answer and self._in_trace:
            text += f"\n{CLOSE_TAG}\n\n"
            self._in_trace = False
        return "", text + answer


def _around(start: bytes, names: Sequence[str]) -> list[bytes]:
    """What stands around a text that is given once under each of `names`, to join it with."""
    keys = [_dumps(name) + b":" for name in names]
    return [start + keys[0], *(b"," + key for key in keys[1:]), b"}"]


class StreamReply:
    """Choices → SSE bytes."""

    def __init__(self, plan: Plan, head: Head, sampled: Sampled) -> None:
        self._sampled = sampled
        self._include_usage = plan.include_usage
        self._begun = False
        self._views = [_View(plan.reasoning_format) for _ in range(plan.num_choices)]
        self._plain = plan.reasoning_format == "parsed" and not plan.return_token_ids
        self._hidden = plan.reasoning_format == "hidden"
        self._token_ids = plan.return_token_ids
        start = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _dumps(head.id),
            head.created,
            _dumps(head.model),
        )
        self._start = start
        self._choice_starts = [
            start + b'"choices":[{"index":%d,"delta":{' % index for index in range(plan.num_choices)
        ]
        self._traces = [_around(start, head.reasoning_fields) for start in self._choice_starts]
        self._answers = [_around(start, ["content"]) for start in self._choice_starts]

    def encode(self, choices: Iterable[EngineChoice]) -> bytes:
        events = b"" if self._begun else self._beginning()
        for choice in choices:
            delta = choice.delta
            if (
                self._plain
                and choice.finish_reason is None
                and delta.role is None
                and choice.logprobs is None
                and delta.tool_calls is None
            ):  # text alone, as most are: what `_events` gives for it, at half the cost
                if delta.reasoning:
                    events += _dumps(delta.reasoning).join(self._traces[choice.index]) + _END
                if delta.content:
                    events += _dumps(delta.content).join(self._answers[choice.index]) + _END
            else:
                events += b"".join(self._events(choice))
        return events

    def end(self) -> bytes:
        if not self._include_usage:
            return DONE_EVENT
        usage = _dumps(usage_body(self._sampled.usage))
        return b'%b"choices":[],"usage":%b}\n\n' % (self._start, usage) + DONE_EVENT

    def _beginning(self) -> bytes:
        self._begun = True
        ids = self._sampled.prompt_token_ids if self._token_ids else None
        if ids is None:
            return b""
        return b'%b"choices":[],"prompt_token_ids":%b}\n\n' % (self._start, _dumps(ids))

    def _events(self, choice: EngineChoice) -> Iterable[bytes]:
        delta = choice.delta
        start = self._choice_starts[choice.index]
        trace, answer = self._views[choice.index].of(delta.reasoning or "", delta.content or "")
        extras = self._extras(choice)
        if delta.role is not None:
            yield start + b'"role":"assistant","content":""}' + _END
        if trace:
            yield _dumps(trace).join(self._traces[choice.index]) + extras + _END
            extras = b""
        if answer:
            yield _dumps(answer).join(self._answers[choice.index]) + extras + _END
            extras = b""
        if delta.tool_calls:
            yield b'%b"tool_calls":%b}' % (start, _dumps(delta.tool_calls)) + _END
        if extras and choice.finish_reason is None:
            yield start + b"}" + extras + _END
        if choice.finish_reason is not None:
            yield b'%b}%b,"finish_reason":%b,"stop_reason":%b}]%b}\n\n' % (
                start,
                extras,
                _dumps(choice.finish_reason),
                _dumps(choice.stop_reason),
                b',"r1":%b' % _dumps(note) if (note := self._sampled.note(choice.index)) else b"",
            )

    def _extras(self, choice: EngineChoice) -> bytes:
        """Log probabilities and token ids of the chunk; not those of a hidden trace."""
        if self._hidden and not choice.delta.content:
            return b""
        extras = b""
        if choice.logprobs is not None:
            extras = b',"logprobs":%b' % _dumps(choice.logprobs)
        if self._token_ids and choice.token_ids:
            extras += b',"token_ids":%b' % _dumps(choice.token_ids)
        return extras


class ToolFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A delta's part of a call."""

    index: int = 0
    id: str | None = None
    function: ToolFunction | None = None


class _Folded:
    """One choice of a whole reply, as it grows."""

    def __init__(self, reasoning_format: ReasoningFormat) -> None:
        self.view = _View(reasoning_format)
        self.trace: list[str] = []
        self.answer: list[str] = []
        self.tool_calls: dict[int, dict[str, object]] = {}
        self.logprobs: list[msgspec.Raw] = []
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    def add(self, choice: EngineChoice, hidden: bool) -> None:
        delta = choice.delta
        trace, answer = self.view.of(delta.reasoning or "", delta.content or "")
        self.trace.append(trace)
        self.answer.append(answer)
        if not (hidden and not answer):
            if choice.logprobs is not None and "content" in choice.logprobs:
                raw = choice.logprobs["content"]
                self.logprobs += msgspec.json.decode(raw, type=list[msgspec.Raw] | None) or []
            self.token_ids += choice.token_ids or []
        if delta.tool_calls:
            self._add_tool_calls(delta.tool_calls)
        if choice.finish_reason is not None:
            self.finish_reason, self.stop_reason = choice.finish_reason, choice.stop_reason

    def _add_tool_calls(self, calls: Iterable[msgspec.Raw]) -> None:
        for call in [msgspec.json.decode(raw, type=ToolCall) for raw in calls]:
            known = self.tool_calls.setdefault(
                call.index, {"id": None, "type": "function", "name": "", "arguments": ""}
            )
            known["id"] = known["id"] or call.id
            if call.function is not None:
                known["name"] = known["name"] or call.function.name
                known["arguments"] = f"{known['arguments']}{call.function.arguments or ''}"

    def message(self, reasoning_fields: Sequence[str]) -> dict[str, object]:
        trace = "".join(self.trace)
        message: dict[str, object] = {
            "role": "assistant",
            "content": "".join(self.answer) or None,
            **dict.fromkeys(reasoning_fields, trace or None),
        }
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": call["type"],
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for _, call in sorted(self.tool_calls.items())
            ]
        return message


class WholeReply:
    """Choices → one JSON body."""

    def __init__(self, plan: Plan, head: Head) -> None:
        self._plan = plan
        self._head = head
        self._folded = [_Folded(plan.reasoning_format) for _ in range(plan.num_choices)]

    def clear(self, index: int) -> None:
        """Forgets a choice so far: its text begins anew."""
        self._folded[index] = _Folded(self._plan.reasoning_format)

    def add(self, choices: Iterable[EngineChoice]) -> None:
        hidden = self._plan.reasoning_format == "hidden"
        for choice in choices:
            self._folded[choice.index].add(choice, hidden)

    def body(self, sampled: Sampled) -> bytes:
        head, plan = self._head, self._plan
        reply: dict[str, object] = {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [self._choice(i, folded) for i, folded in enumerate(self._folded)],
            "usage": usage_body(sampled.usage),
            "r1": r1_body(plan, sampled),
        }
        if plan.return_token_ids:
            reply["prompt_token_ids"] = sampled.prompt_token_ids
        return _dumps(reply)

    def _choice(self, index: int, folded: _Folded) -> dict[str, object]:
        choice: dict[str, object] = {
            "index": index,
            "message": folded.message(self._head.reasoning_fields),
            "logprobs": {"content": folded.logprobs} if folded.logprobs else None,
            "finish_reason": folded.finish_reason,
            "stop_reason": folded.stop_reason,
        }
        if self._plan.return_token_ids:
            choice["token_ids"] = folded.token_ids
        return choice


def usage_body(usage: Usage) -> dict[str, object]:
    """OpenAI's `usage` object."""
    body: dict[str, object] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    if usage.cached_tokens is not None:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return body


def r1_body(plan: Plan, sampled: Sampled) -> dict[str, object]:
    """What a whole reply tells of how it was made."""
    return {
        "preset": plan.preset,
        "thinking_token_budget": plan.budget.tokens,
        "budget_source": plan.budget.source,
        **sampled.note(),
    }
