"""The output of a response: choices → items, each a trace, a message or a call. Pure.

Streams and whole replies fold the same choices here, so that both carry the same items. Ids follow
from the reply's own. Forms: `openai/types/responses/response_output_item.py` (openai 3.54).
"""

from __future__ import annotations

import abc
from typing import ClassVar, TypeVar

import msgspec

from serve.plan import Plan
from serve.reply import Head, ToolCall
from serve.wire import EngineChoice

Json = dict[str, object]
ItemT = TypeVar("ItemT", bound="Item")
_COMPLETE = ("stop", "tool_calls")
"""Finish reasons of what came to its own end."""


class Item(abc.ABC):
    """One item, as it grows."""

    stem: ClassVar[str]
    """What the names of its text's events begin with."""
    field: ClassVar[str] = "text"
    """Where such an event has the text when it is complete."""
    empty: ClassVar[Json] = {"content": []}
    """What its body has before there is any text."""
    also: ClassVar[Json] = {}
    """What the events of its text have besides."""

    def __init__(self, item_id: str, index: int) -> None:
        self.id = item_id
        self.index = index
        self.texts: list[str] = []
        self.at: Json = {"item_id": item_id, "output_index": index, "content_index": 0}
        """What the events of its text and part have in common."""

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @abc.abstractmethod
    def body(self, status: str) -> Json: ...

    def part(self, text: str) -> Json | None:
        """The part that its text is, where it has parts."""
        return None


class Trace(Item):
    stem = "response.reasoning_text"

    def body(self, status: str) -> Json:
        return {
            "type": "reasoning",
            "id": self.id,
            "summary": [],
            "content": [self.part(self.text)],
            "status": status,
        }

    def part(self, text: str) -> Json:
        return {"type": "reasoning_text", "text": text}


class Message(Item):
    stem = "response.output_text"
    also: ClassVar[Json] = {"logprobs": []}

    def body(self, status: str) -> Json:
        return {
            "type": "message",
            "id": self.id,
            "role": "assistant",
            "content": [self.part(self.text)],
            "status": status,
        }

    def part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class Call(Item):
    stem = "response.function_call_arguments"
    field = "arguments"
    empty: ClassVar[Json] = {"arguments": ""}

    def __init__(self, item_id: str, index: int, begun: ToolCall) -> None:
        super().__init__(item_id, index)
        del self.at["content_index"]
        self.call_id = begun.id or item_id
        self.name = (begun.function and begun.function.name) or ""

    def body(self, status: str) -> Json:
        return {
            "type": "function_call",
            "id": self.id,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.text,
            "status": status,
        }


class Output:
    """All items of one reply."""

    def __init__(self, plan: Plan, head: Head) -> None:
        self._key = head.id.rpartition("_")[2]
        self._hides_trace = plan.reasoning_format == "hidden"
        self._trace: Trace | None = None
        self._message: Message | None = None
        self._calls: dict[int, Call] = {}
        self.items: list[Item] = []
        self.finish_reason: str | None = None

    def take(self, choice: EngineChoice) -> list[tuple[Item, str]]:
        """What the choice adds, and to which item, also to one that it begins."""
        delta = choice.delta
        said: list[tuple[Item, str]] = []
        if delta.reasoning and not self._hides_trace:
            if self._trace is None:
                self._trace = self._new(Trace(f"rs_{self._key}", len(self.items)))
            said.append((self._trace, delta.reasoning))
        if delta.content:
            if self._message is None:
                self._message = self._new(Message(f"msg_{self._key}", len(self.items)))
            said.append((self._message, delta.content))
        if delta.tool_calls:
            said += [self._call(raw) for raw in delta.tool_calls]
        for item, text in said:
            item.texts.append(text)
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        return said

    @property
    def status(self) -> str:
        return "completed" if self.finish_reason in _COMPLETE else "incomplete"

    def bodies(self) -> list[Json]:
        """Of the items at the end: only the last one can be incomplete."""
        last = len(self.items) - 1
        return [
            item.body(self.status if item.index == last else "completed") for item in self.items
        ]

    def _call(self, raw: msgspec.Raw) -> tuple[Call, str]:
        part = msgspec.json.decode(raw, type=ToolCall)
        call = self._calls.get(part.index)
        if call is None:
            item_id = f"fc_{self._key}_{part.index}"
            call = self._calls[part.index] = self._new(Call(item_id, len(self.items), part))
        return call, (part.function and part.function.arguments) or ""

    def _new(self, item: ItemT) -> ItemT:
        self.items.append(item)
        return item
