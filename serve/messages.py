"""Anthropic's Messages API, the request: its body becomes the chat that it means. Pure.

Turns are read by `serve.messages_turns`, the reply is `serve.messages_reply`'s. Forms:
`anthropic/types/message_create_params.py` (anthropic 2.12). Thinking is ours to decide on where
the request says nothing: R1 always thinks, so the preset does, while Claude wouldn't.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve.errors import InvalidRequest
from serve.messages_turns import Block, Json, Turn, chat_messages
from serve.protocol import (
    ChatRequest,
    CommonFields,
    ReasoningEffort,
    convert_request,
    parse_chat,
)
from serve.tally import MAX_VOTES, Votes

_EFFORTS: dict[str, ReasoningEffort] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""Anthropic's efforts, as the names that the presets give a budget to."""


class Thinking(msgspec.Struct, frozen=True):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None
    """Summaries aren't made: the trace comes as it is, or not at all."""


class OutputFormat(msgspec.Struct, frozen=True):
    type: Literal["json_schema"]
    schema: Json


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the client runs. The fields after `strict` are for Anthropic's servers."""

    name: str
    input_schema: Json
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: object = None
    allowed_callers: object = None
    defer_loading: object = None
    eager_input_streaming: object = None
    input_examples: object = None


class MessagesRequest(CommonFields, frozen=True, kw_only=True):
    """`POST /v1/messages`. The last fields mean nothing here and are ignored."""

    max_tokens: Annotated[int, Meta(ge=1)]
    messages: list[Turn]
    system: str | list[Block] | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=16)] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    tools: list[Json] | None = None
    tool_choice: ToolChoice | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    reasoning_format: Literal["parsed", "hidden"] = "parsed"
    recover: bool | None = None
    votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] | Votes | None = None
    chat_template_kwargs: Json | None = None
    metadata: Json | None = None
    cache_control: Json | None = None
    diagnostics: Json | None = None
    inference_geo: str | None = None
    speed: str | None = None
    user_profile_id: str | None = None


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/messages/count_tokens`. The fields after `tools` don't change the count."""

    messages: list[Turn]
    model: str | None = None
    preset: str | None = None
    system: str | list[Block] | None = None
    tools: list[Json] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Json | None = None
    speed: str | None = None
    user_profile_id: str | None = None


_TRANSLATED = frozenset({"messages", "tools", "tool_choice", "stop"})
_SAME = (
    frozenset(MessagesRequest.__struct_fields__) & frozenset(ChatRequest.__struct_fields__)
) - _TRANSLATED


def messages_chat(data: Mapping[str, object]) -> tuple[ChatRequest, Json]:
    """The chat that a request means, and the body it would have as one. Raises `InvalidRequest`
    (and its kinds)."""
    if data.get("max_tokens") is None:
        raise InvalidRequest(
            "`max_tokens` is missing: the Messages API needs it; thinking and answer both count",
            param="max_tokens",
        )
    request = convert_request(data, MessagesRequest)
    chat = {field: data[field] for field in _SAME if field in data}
    chat["messages"] = chat_messages(request.system, request.messages)
    choice, form = request.tool_choice, request.output_config and request.output_config.format
    tools = _tools(request.tools)
    translated = {
        "stop": _stop(request),
        "response_format": form and _response_format(form),
        "tools": tools,
        "tool_choice": choice and _tool_choice(choice, tools is not None),
        "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
        **_thinking(request),
    }
    chat |= {field: value for field, value in translated.items() if value is not None}
    return parse_chat(chat), chat


def count_tokens_chat(data: Mapping[str, object]) -> ChatRequest:
    """The chat whose tokens are to be counted: messages and tools. Raises `InvalidRequest`."""
    request = convert_request(data, CountTokensRequest)
    chat: Json = {field: data.get(field) for field in ("model", "preset")}
    chat["messages"] = chat_messages(request.system, request.messages)
    chat["tools"] = _tools(request.tools)
    return parse_chat(chat)


def _thinking(request: MessagesRequest) -> Json:
    """What decides on thinking, in a chat's words. A budget goes before `output_config.effort`,
    which Claude takes as a tendency beside it."""
    thinking = request.thinking or Thinking("adaptive")
    effort, budget = request.reasoning_effort, request.thinking_token_budget
    if thinking.budget_tokens is not None:
        if thinking.type != "enabled":
            raise _conflict("thinking.budget_tokens", f"`thinking.type: {thinking.type}`")
        if budget is not None:
            raise _conflict("thinking.budget_tokens", "`thinking_token_budget`")
        budget = thinking.budget_tokens
    if thinking.type == "disabled":
        budget = 0
    if (config := request.output_config) and config.effort and budget is None:
        if effort is not None:
            raise _conflict("output_config.effort", "`reasoning_effort`")
        effort = _EFFORTS[config.effort]
    hidden = thinking.type == "disabled" or thinking.display == "omitted"
    return {
        "thinking_token_budget": budget,
        "reasoning_effort": effort,
        "reasoning_format": "hidden" if hidden else None,
    }


def _conflict(field: str, other: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` doesn't go with {other}; send one of them", param=field)


def _stop(request: MessagesRequest) -> object:
    if request.stop_sequences is not None and request.stop is not None:
        raise _conflict("stop_sequences", "`stop`, which means the same")
    if "" in (request.stop_sequences or ()):
        raise InvalidRequest(
            "`stop_sequences` holds an empty string; leave it out", param="stop_sequences"
        )
    return request.stop if request.stop_sequences is None else request.stop_sequences


def _tools(tools: list[Json] | None) -> list[Json] | None:
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())] or None


def _tool(data: Json, where: str) -> Json:
    if data.get("type") not in (None, "custom"):
        raise InvalidRequest(
            f"`{where}.type` is `{data['type']}`, which Anthropic runs itself or defines; only "
            "`custom` tools work here",
            param=f"{where}.type",
        )
    tool = convert_request(data, Tool, where)
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    given = {key: value for key, value in function.items() if value is not None}
    return {"type": "function", "function": given}


def _tool_choice(choice: ToolChoice, has_tools: bool) -> str | Json | None:
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequest(
                "`tool_choice.name` is missing: type `tool` needs it", param="tool_choice.name"
            )
        return {"type": "function", "function": {"name": choice.name}}
    if choice.type == "any":
        return "required"
    return choice.type if has_tools else None  # vLLM refuses it there


def _response_format(form: OutputFormat) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form.schema}}
