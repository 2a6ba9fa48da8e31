"""What the client sees of a message of Anthropic's API: named events, or the whole object; errors.

Its blocks are `serve.messages_content`'s. Forms: `anthropic/types/message.py`,
`raw_message_stream_event.py`, `shared/error_response.py` (anthropic 2.12).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec
from starlette.types import Send

from serve import sse
from serve.chat import ChatReply
from serve.errors import NotReady, ServeError
from serve.forms import Sampled, StreamForm, WholeForm
from serve.messages_content import PIECE_END, Block, Content, Json, event
from serve.plan import Plan
from serve.reply import Head, r1_body
from serve.response import DisconnectGuard
from serve.usage import Usage
from serve.wire import EngineChoice

_dumps = msgspec.json.encode
_NO_STOP: Json = {"stop_reason": None, "stop_sequence": None}
_ERROR_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


class MessagesReply(ChatReply):
    route = "/v1/messages"
    id_prefix: ClassVar = "msg_"

    async def run(self, send: Send, guard: DisconnectGuard) -> None:
        self.raw_headers.append((b"request-id", self.visit.identify().encode()))  # for the SDKs
        await super().run(send, guard)

    def stream_form(self) -> StreamForm:
        return MessageStream(self.plan, self.head, self.generation)

    def whole_form(self) -> WholeForm:
        return WholeMessage(self.plan, self.head)

    def error_event(self, error: ServeError) -> bytes:
        return b"event: error\n" + sse.encode(error_body(error))


class MessageStream:
    """Choices → SSE bytes."""

    def __init__(self, plan: Plan, head: Head, sampled: Sampled) -> None:
        self._plan = plan
        self._head = head
        self._sampled = sampled
        self._content = Content(plan)
        self._begun = False
        self._open: Block | None = None

    def encode(self, choices: Iterable[EngineChoice]) -> bytes:
        events = b"" if self._begun else self._beginning()
        for choice in choices:
            delta, open_ = choice.delta, self._open
            if open_ is not None and choice.finish_reason is None and not delta.tool_calls:
                # more of the same, as most are: what `pieces` gives for it, at half the cost
                if delta.reasoning and not delta.content and open_.kind == "thinking":
                    events += open_.piece_start + _dumps(delta.reasoning) + PIECE_END
                    continue
                if delta.content and not delta.reasoning and open_.kind == "text":
                    events += open_.piece_start + _dumps(delta.content) + PIECE_END
                    continue
            for block, text in self._content.pieces(choice):
                if block is not self._open:
                    events += self._turn_to(block)
                if text:
                    events += block.piece_start + _dumps(text) + PIECE_END
        return events

    def end(self) -> bytes:
        events = b"" if self._begun else self._beginning()
        if self._open is not None:
            events += self._open.end()
        events += event(
            "message_delta",
            delta=self._content.stop,
            usage=message_usage(self._sampled.usage),
            r1=r1_body(self._plan, self._sampled),
        )
        return events + event("message_stop")

    def _beginning(self) -> bytes:
        self._begun = True
        usage = message_usage(Usage(prompt_tokens=self._sampled.usage.prompt_tokens))
        return event("message_start", message=message_body(self._head, [], _NO_STOP, usage))

    def _turn_to(self, block: Block) -> bytes:
        if self._open is not None and block.index < self._open.index:
            return b""  # a call that went on after another one had begun
        ended = b"" if self._open is None else self._open.end()
        self._open = block
        return ended + block.begin()


class WholeMessage:
    """Choices → one JSON body."""

    def __init__(self, plan: Plan, head: Head) -> None:
        self._plan = plan
        self._head = head
        self._content = Content(plan)

    def add(self, choices: Iterable[EngineChoice]) -> None:
        for choice in choices:
            for block, text in self._content.pieces(choice):
                block.parts.append(text)

    def clear(self, index: int) -> None:
        self._content = Content(self._plan)

    def body(self, sampled: Sampled) -> bytes:
        blocks = [block.body() for block in self._content.blocks]
        usage = message_usage(sampled.usage)
        message = message_body(self._head, blocks, self._content.stop, usage)
        return _dumps(message | {"r1": r1_body(self._plan, sampled)})


def message_body(head: Head, blocks: list[Json], stop: Json, usage: Json) -> Json:
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": blocks,
        **stop,
        "usage": usage,
    }


def message_usage(usage: Usage) -> Json:
    """Anthropic counts a prompt's cached tokens apart from the others."""
    body: Json = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
    if usage.cached_tokens is not None:
        body["input_tokens"] = max(0, usage.prompt_tokens - usage.cached_tokens)
        body["cache_read_input_tokens"] = usage.cached_tokens
    return body


def error_body(error: ServeError) -> bytes:
    """Anthropic's form of an error."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    kind = "overloaded_error" if isinstance(error, NotReady) else None
    kind = kind or _ERROR_TYPES.get(error.status, usual)
    return _dumps({"type": "error", "error": {"type": kind, "message": error.message}})
