"""What the client sees of a response: typed events, or the whole object.

An event's parts that stay the same are made once per item. The trace ends when something else
begins; messages and calls stay open to the end, so that none has to be opened again. Forms:
`openai/types/responses/response.py` and `response_stream_event.py` (openai 3.54).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

import msgspec
from starlette.types import Send

from serve import sse
from serve.admission import BATCH_TIER
from serve.chat import ChatReply
from serve.errors import ServeError
from serve.forms import Sampled, StreamForm, WholeForm
from serve.plan import Plan
from serve.reply import Head, r1_body
from serve.response import DisconnectGuard
from serve.responses import ResponsesRequest, named_as_asked
from serve.responses_output import Item, Json, Output, Trace
from serve.usage import Usage
from serve.wire import EngineChoice

_dumps = msgspec.json.encode


class ResponsesReply(ChatReply):
    """Tell it what it is the reply to with `answering` before it runs."""

    route = "/v1/responses"
    id_prefix: ClassVar = "resp_"
    _asked: ResponsesRequest
    _stream_form: ResponseStream | None = None

    def answering(self, asked: ResponsesRequest) -> Self:
        self._asked = asked
        return self

    async def run(self, send: Send, guard: DisconnectGuard) -> None:
        with named_as_asked():
            await super().run(send, guard)

    def stream_form(self) -> StreamForm:
        frame = ResponseFrame(self.plan, self.head, self._asked)
        self._stream_form = ResponseStream(frame, Output(self.plan, self.head), self.generation)
        return self._stream_form

    def whole_form(self) -> WholeForm:
        return WholeResponse(self.plan, self.head, self._asked)

    def error_event(self, error: ServeError) -> bytes:
        if self._stream_form is None:
            return super().error_event(error)
        return self._stream_form.fail(error)


class ResponseFrame:
    """The object `response` around its output."""

    def __init__(self, plan: Plan, head: Head, asked: ResponsesRequest) -> None:
        self._plan = plan
        text = msgspec.to_builtins(asked.text) if asked.text else {}
        effort = asked.reasoning.effort if asked.reasoning else None
        self._constant: Json = {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "model": head.model,
            "background": False,
            "instructions": asked.instructions,
            "max_output_tokens": plan.body.get("max_tokens"),
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": effort, "summary": None},
            "safety_identifier": asked.safety_identifier,
            "service_tier": BATCH_TIER if asked.service_tier == BATCH_TIER else "default",
            "store": False,
            "temperature": plan.body.get("temperature"),
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [],
            "top_logprobs": 0,
            "top_p": plan.body.get("top_p"),
            "truncation": "disabled",
            "user": asked.user,
        }

    def begun(self) -> Json:
        return self._constant | {
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def ended(self, output: Output, sampled: Sampled, error: ServeError | None = None) -> Json:
        is_cut = output.finish_reason == "length"
        return self._constant | {
            "status": "failed" if error else output.status,
            "error": {"code": "server_error", "message": error.message} if error else None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": output.bodies(),
            "usage": response_usage(sampled.usage),
            "r1": r1_body(self._plan, sampled),
        }


class ResponseStream:
    """Choices → SSE bytes."""

    def __init__(self, frame: ResponseFrame, output: Output, sampled: Sampled) -> None:
        self._frame = frame
        self._output = output
        self._sampled = sampled
        self._number = 0
        """Of the next event."""
        self._starts: list[bytes] = []
        """Of the events that add to an item's text, by item: up to the text."""
        self._open: list[Item] = []

    def encode(self, choices: Iterable[EngineChoice]) -> bytes:
        events = b"" if self._number else self._beginning()
        for choice in choices:
            for item, text in self._output.take(choice):
                if item.index == len(self._starts):
                    events += self._begin(item)
                if text:
                    events += b'%b%b,"sequence_number":%d}\n\n' % (
                        self._starts[item.index],
                        _dumps(text),
                        self._number,
                    )
                    self._number += 1
        return events

    def end(self) -> bytes:
        events = b"" if self._number else self._beginning()
        for item in self._open:
            is_last = item is self._open[-1]
            events += self._finish(item, self._output.status if is_last else "completed")
        response = self._frame.ended(self._output, self._sampled)
        return events + self._event(f"response.{self._output.status}", response=response)

    def fail(self, error: ServeError) -> bytes:
        """The last events of a stream that breaks off. OpenAI's reference has an error's fields
        beside `type`, its servers and SDKs have them in `error`: here both are served."""
        events = b"" if self._number else self._beginning()
        fields = {"code": error.code, "message": error.message, "param": error.param}
        events += self._event("error", **fields, error=fields | {"type": error.kind})
        response = self._frame.ended(self._output, self._sampled, error)
        return events + self._event("response.failed", response=response)

    def _beginning(self) -> bytes:
        response = self._frame.begun()
        return b"".join(
            self._event(name, response=response)
            for name in ("response.created", "response.in_progress")
        )

    def _begin(self, item: Item) -> bytes:
        name = f"{item.stem}.delta"
        start = _dumps({"type": name, **item.at, **item.also, "delta": ""}).removesuffix(b'""}')
        self._starts.append(b"event: %b\ndata: %b" % (name.encode(), start))
        events = b""
        if self._open and isinstance(self._open[0], Trace):
            events += self._finish(self._open.pop(0), "completed")
        self._open.append(item)
        events += self._event(
            "response.output_item.added",
            output_index=item.index,
            item=item.body("in_progress") | item.empty,
        )
        if (part := item.part("")) is not None:
            events += self._event("response.content_part.added", **item.at, part=part)
        return events

    def _finish(self, item: Item, status: str) -> bytes:
        text = item.text
        events = self._event(f"{item.stem}.done", **item.at, **item.also, **{item.field: text})
        if (part := item.part(text)) is not None:
            events += self._event("response.content_part.done", **item.at, part=part)
        return events + self._event(
            "response.output_item.done", output_index=item.index, item=item.body(status)
        )

    def _event(self, name: str, **fields: object) -> bytes:
        data = _dumps({"type": name, **fields, "sequence_number": self._number})
        self._number += 1
        return b"event: %b\n%b" % (name.encode(), sse.encode(data))


class WholeResponse:
    """Choices → one JSON body."""

    def __init__(self, plan: Plan, head: Head, asked: ResponsesRequest) -> None:
        self._plan = plan
        self._head = head
        self._frame = ResponseFrame(plan, head, asked)
        self._output = Output(plan, head)

    def add(self, choices: Iterable[EngineChoice]) -> None:
        for choice in choices:
            self._output.take(choice)

    def clear(self, index: int) -> None:
        self._output = Output(self._plan, self._head)

    def body(self, sampled: Sampled) -> bytes:
        return _dumps(self._frame.ended(self._output, sampled))


def response_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
