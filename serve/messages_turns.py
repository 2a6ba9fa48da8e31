"""The turns of Anthropic's Messages API, made of blocks, as a chat's messages. Pure.

Thinking of earlier turns is dropped, as the model's template does. What blocks carry for
Anthropic's own services (`cache_control`, `citations`, …) is passed over, so that the blocks of a
reply can be sent back as they came. Forms: `anthropic/types/*_block_param.py` (anthropic 2.12).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from serve.errors import InvalidRequest
from serve.protocol import convert_request

Block = dict[str, object]
Json = dict[str, object]
PARAGRAPHS = "\n\n"
"""Between the text blocks of a turn."""


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class TextBlock(msgspec.Struct, frozen=True):
    type: Literal["text"]
    text: str
    cache_control: object = None
    citations: object = None
    parsed_output: object = None


class ThinkingBlock(msgspec.Struct, frozen=True):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(msgspec.Struct, frozen=True):
    type: Literal["redacted_thinking"]
    data: str | None = None


class ToolUseBlock(msgspec.Struct, frozen=True):
    type: Literal["tool_use"]
    id: str
    name: str
    input: Json
    cache_control: object = None
    caller: object = None
    toolset_name: object = None


class ToolResultBlock(msgspec.Struct, frozen=True):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Block] | None = None
    is_error: bool | None = None
    cache_control: object = None
    toolset_name: object = None


_AnyBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock
_THINKING: dict[str, type[_AnyBlock]] = {
    "thinking": ThinkingBlock,
    "redacted_thinking": RedactedThinkingBlock,
}
_KINDS: dict[str, dict[str, type[_AnyBlock]]] = {
    "user": {"text": TextBlock, "tool_result": ToolResultBlock},
    "assistant": {"text": TextBlock, "tool_use": ToolUseBlock, **_THINKING},
    "system": {"text": TextBlock},
}
"""Role → the blocks that its turns may have."""


def chat_messages(system: str | list[Block] | None, turns: Iterable[Turn]) -> list[Json]:
    """Raises `InvalidRequest` that names the block."""
    messages: list[Json] = []
    if system:
        messages += _turn("system", system, "system")
    for i, turn in enumerate(turns):
        messages += _turn(turn.role, turn.content, f"messages[{i}].content")
    if messages and messages[-1]["role"] == "assistant":
        raise InvalidRequest(
            "`messages` ends with an assistant turn, but the model can't go on with one: end with "
            "a user turn",
            param="messages",
        )
    return messages


def _turn(role: str, content: str | list[Block], where: str) -> list[Json]:
    """One message, or several: results of tools are messages of their own, and so are calls, since
    R1's template shows none beside a text."""
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[Json] = []
    texts: list[str] = []
    calls: list[Json] = []
    for block, at in _blocks(content, _KINDS[role], where):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolUseBlock):
            calls.append(_call(block))
        elif isinstance(block, ToolResultBlock):
            text = _text(block.content or "", f"{at}.content")
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
    messages = results
    if texts or not (results or calls):
        messages.append({"role": role, "content": PARAGRAPHS.join(texts)})
    if calls:
        messages.append({"role": role, "content": None, "tool_calls": calls})
    return messages


def _call(block: ToolUseBlock) -> Json:
    arguments = msgspec.json.encode(block.input).decode()
    return {
        "id": block.id,
        "type": "function",
        "function": {"name": block.name, "arguments": arguments},
    }


def _text(content: str | list[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    blocks = _blocks(content, _KINDS["system"], where)
    return PARAGRAPHS.join(block.text for block, _ in blocks if isinstance(block, TextBlock))


def _blocks(
    content: Iterable[Block], kinds: Mapping[str, type[_AnyBlock]], where: str
) -> Iterator[tuple[_AnyBlock, str]]:
    """Each block, and where it stands."""
    for i, block in enumerate(content):
        at = f"{where}[{i}]"
        kind = kinds.get(str(block.get("type")))
        if kind is None:
            names = ", ".join(f"`{name}`" for name in kinds)
            raise InvalidRequest(
                f"`{at}` has type `{block.get('type')}`; the model is text-only, and here it takes "
                f"{names}",
                param=at,
            )
        yield convert_request(block, kind, at), at
