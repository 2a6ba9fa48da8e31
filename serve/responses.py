"""OpenAI's Responses API, the request: its body becomes the chat that it means. Pure.

Nothing is kept between requests, so what would need memory is refused with what to send instead.
`input` is read by `serve.responses_items`, the reply is `serve.responses_reply`'s. Form:
`openai/types/responses/response_create_params.py` (openai 3.54).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve.errors import InvalidRequest, ServeError, UnknownField
from serve.protocol import (
    ChatRequest,
    CommonFields,
    ReasoningEffort,
    convert_request,
    parse_chat,
)
from serve.responses_items import chat_messages, string_in
from serve.tally import MAX_VOTES, Votes

Summary = Literal["auto", "concise", "detailed"]
Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class Reasoning(msgspec.Struct, frozen=True):
    """The reply has the whole trace; summaries of it are not made. No effort is higher than `high`
    here, so OpenAI's are the same."""

    effort: Literal[ReasoningEffort, "xhigh", "max"] | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None


class TextFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, object] | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True):
    include_obfuscation: bool = False


class ResponsesRequest(CommonFields, frozen=True, kw_only=True):
    """`POST /v1/responses`."""

    input: str | list[dict[str, object]]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    stream_options: ResponseStreamOptions | None = None
    reasoning: Reasoning | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    reasoning_format: Literal["parsed", "hidden"] = "parsed"
    recover: bool | None = None
    votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] | Votes | None = None
    text: TextConfig | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, object] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    chat_template_kwargs: dict[str, object] | None = None
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, object] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, object] | None = None
    background: bool | None = None
    prompt: dict[str, object] | None = None


CHAT_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
"""What a chat calls a field, and its name here."""
_TRANSLATED = frozenset({"tools", "tool_choice", "stream_options"})
_SAME = (
    frozenset(ResponsesRequest.__struct_fields__) & frozenset(ChatRequest.__struct_fields__)
) - _TRANSLATED
_NEEDS_MEMORY = {
    "previous_response_id": "send the earlier items again in `input`",
    "conversation": "send its items again in `input`",
    "background": "send `stream: true`, or wait for the reply",
    "prompt": "send its text in `instructions` and `input`",
}


def parse_responses(data: Mapping[str, object]) -> ResponsesRequest:
    """Raises `InvalidRequest` (and its kinds); items and tools are checked by `as_chat`."""
    for field, name in CHAT_NAMES.items():
        if field in data:
            raise UnknownField(f"unknown field `{field}`; here it is `{name}`", param=field)
    request = convert_request(data, ResponsesRequest)
    for field, remedy in _NEEDS_MEMORY.items():
        if getattr(request, field) not in (None, False):
            raise InvalidRequest(
                f"`{field}` can't work here, where nothing is kept between requests; {remedy}",
                param=field,
            )
    if request.truncation == "auto":
        raise InvalidRequest(
            "`truncation` must be `disabled`: items are never dropped here; shorten `input`",
            param="truncation",
        )
    if request.top_logprobs or "message.output_text.logprobs" in (request.include or ()):
        raise InvalidRequest(
            "responses have no log probabilities here; /v1/chat/completions has them",
            param="top_logprobs" if request.top_logprobs else "include",
        )
    return request


def as_chat(
    request: ResponsesRequest, data: Mapping[str, object]
) -> tuple[ChatRequest, dict[str, object]]:
    """The chat that `request` means, and the body it would have as one. `data` is what `request`
    was read from. Raises `InvalidRequest`: see `named_as_asked`."""
    chat = {field: data[field] for field in _SAME if field in data}
    chat["messages"] = chat_messages(request.instructions, request.input)
    effort = request.reasoning.effort if request.reasoning else None
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())]
    translated = {
        "max_completion_tokens": request.max_output_tokens,
        "reasoning_effort": "high" if effort in ("xhigh", "max") else effort,
        "response_format": _response_format(request.text),
        "tools": tools or None,
        "tool_choice": _tool_choice(request.tool_choice, bool(tools)),
    }
    chat |= {field: value for field, value in translated.items() if value is not None}
    return parse_chat(chat), chat


@contextlib.contextmanager
def named_as_asked() -> Iterator[None]:
    """What goes wrong with the chat in here is said in the names of its response."""
    try:
        yield
    except ServeError as exc:
        exc.message = re.sub(
            r"`(\w+)`", lambda found: f"`{CHAT_NAMES.get(found[1], found[1])}`", exc.message
        )
        exc.param = CHAT_NAMES.get(exc.param or "", exc.param)
        raise


def _tool(tool: Mapping[str, object], where: str) -> dict[str, object]:
    if tool.get("type") != "function":
        raise InvalidRequest(
            f"`{where}.type` is `{tool.get('type')}`, which OpenAI runs itself; only `function` "
            "tools work here",
            param=f"{where}.type",
        )
    if "name" not in tool and "function" in tool:
        raise InvalidRequest(
            f"`{where}.name` is missing: a response's tools have name and parameters beside "
            "`type`, not in `function`",
            param=f"{where}.name",
        )
    string_in(tool, "name", where)
    known = ("name", "description", "parameters", "strict")
    function = {key: tool[key] for key in known if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _tool_choice(
    choice: str | dict[str, object] | None, has_tools: bool
) -> str | dict[str, object] | None:
    if choice in ("auto", "none") and not has_tools:
        return None  # vLLM refuses it there
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        raise InvalidRequest(
            f"`tool_choice.type` is `{choice.get('type')}`; send `none`, `auto`, `required`, or "
            '{"type": "function", "name": …}',
            param="tool_choice.type",
        )
    return {"type": "function", "function": {"name": string_in(choice, "name", "tool_choice")}}


def _response_format(text: TextConfig | None) -> dict[str, object] | None:
    form = None if text is None else text.format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    for field in ("name", "schema"):
        if getattr(form, field) is None:
            raise InvalidRequest(
                f"`text.format.{field}` is missing: `json_schema` needs it",
                param=f"text.format.{field}",
            )
    schema = msgspec.to_builtins(form)
    schema.pop("type")
    return {"type": "json_schema", "json_schema": schema}
