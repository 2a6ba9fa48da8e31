"""The content blocks of a message of Anthropic's API, as they grow: thinking, text, calls of tools,
one after the other. Pure.

`Content` decides to which block a piece of text belongs, for streams and whole replies, so that
both carry the same. An event's parts that stay the same are made once per block.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from serve import sse
from serve.plan import Plan
from serve.reply import ToolCall
from serve.wire import UNREADABLE, EngineChoice

Json = dict[str, object]

SIGNATURE = "unsigned"
"""Of thinking blocks. Claude's prove that it wrote them; here nothing is signed or checked."""

_PIECES = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""Type of a block → type of its deltas, and where their text stands."""
PIECE_END = b"}}\n\n"
_STOP_REASONS = {"length": "max_tokens", "repetition": "max_tokens", "tool_calls": "tool_use"}


def event(kind: str, **fields: object) -> bytes:
    data = msgspec.json.encode({"type": kind, **fields})
    return b"event: %b\n%b" % (kind.encode(), sse.encode(data))


class Block:
    """One content block. `head` is what its first event shows of it."""

    __slots__ = ("head", "index", "kind", "parts", "piece_start")

    def __init__(self, index: int, **head: object) -> None:
        self.index = index
        self.head = head
        self.kind = str(head["type"])
        kind, field = _PIECES[self.kind]
        whole = event("content_block_delta", index=index, delta={"type": kind, field: ""})
        self.piece_start = whole.removesuffix(b'""' + PIECE_END)
        self.parts: list[str] = []
        """Its text, where the reply is whole."""

    def begin(self) -> bytes:
        return event("content_block_start", index=self.index, content_block=self.head)

    def end(self) -> bytes:
        signed = b""
        if self.kind == "thinking":
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = event("content_block_delta", index=self.index, delta=delta)
        return signed + event("content_block_stop", index=self.index)

    def body(self) -> Json:
        text = "".join(self.parts)
        if self.kind == "thinking":
            return self.head | {"thinking": text, "signature": SIGNATURE}
        return self.head | ({"text": text} if self.kind == "text" else {"input": _input(text)})


def _input(arguments: str) -> Json:
    """A call's arguments. Text that isn't a JSON object, as when a limit cut it off, is kept as
    Anthropic's guide to fine-grained tool streaming has clients send it back."""
    try:
        return msgspec.json.decode(arguments or "{}", type=Json)
    except UNREADABLE:
        return {"INVALID_JSON": arguments}


class Content:
    """Choices → the message's blocks, and why it stopped."""

    def __init__(self, plan: Plan) -> None:
        self.blocks: list[Block] = []
        self.stop: Json = {"stop_reason": "end_turn", "stop_sequence": None}
        self._last: Block | None = None
        self._hides_thinking = plan.reasoning_format == "hidden"
        self._calls: dict[int, Block] = {}

    def pieces(self, choice: EngineChoice) -> Iterator[tuple[Block, str]]:
        """What the choice adds to which block; a new block is the last of `blocks`."""
        delta, last = choice.delta, self._last
        if delta.reasoning and not self._hides_thinking:
            if last is None or last.kind != "thinking":
                last = self._begin(type="thinking", thinking="", signature="")
            yield last, delta.reasoning
        if delta.content:
            if last is None or last.kind != "text":
                last = self._begin(type="text", text="")
            yield last, delta.content
        for raw in delta.tool_calls or ():
            call = msgspec.json.decode(raw, type=ToolCall)
            yield self._call(call), (call.function and call.function.arguments) or ""
        if choice.finish_reason is not None:
            self._end(choice.finish_reason, choice.stop_reason)

    def _begin(self, **head: object) -> Block:
        self._last = Block(len(self.blocks), **head)
        self.blocks.append(self._last)
        return self._last

    def _call(self, call: ToolCall) -> Block:
        if call.index not in self._calls:
            self._calls[call.index] = self._begin(
                type="tool_use",
                id=call.id or f"toolu_{call.index}",
                name=(call.function and call.function.name) or "",
                input={},
            )
        return self._calls[call.index]

    def _end(self, finish_reason: str, stop_reason: int | str | None) -> None:
        if finish_reason == "stop" and isinstance(stop_reason, str):
            self.stop = {"stop_reason": "stop_sequence", "stop_sequence": stop_reason}
        else:
            usual = "tool_use" if self._calls else "end_turn"  # a call that was forced ends in stop
            self.stop["stop_reason"] = _STOP_REASONS.get(finish_reason, usual)
