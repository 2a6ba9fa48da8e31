"""The requests that clients send, checked and typed.

A request is OpenAI's plus vLLM's sampling fields plus our extras; whatever is not listed here is
refused with the nearest right name, so that a typing error never passes as a setting. Pure: bytes
in, structs out; every failure is a `ServeError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from serve.errors import InvalidRequest, MalformedJSON, UnknownField
from serve.reasoning import ReasoningFormat
from serve.strict import StrictError, UnknownKeyError, convert
from serve.tally import MAX_VOTES, Votes

R = TypeVar("R")
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]
Probability = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
MAX_CHOICES = 128


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class Message(msgspec.Struct):
    """One turn. `content` is text by the time a request leaves `parse_chat`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, object]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, object]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling parameters that a request gives or a preset fills in; None leaves it open.

    Ranges are vLLM's (`vllm/sampling_params.py`).
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None


class CommonFields(Sampling, frozen=True, kw_only=True):
    """What chats, plain completions and responses take under one name."""

    model: str | None = None
    stream: bool | None = None
    preset: str | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    structured_outputs: dict[str, object] | None = None
    repetition_detection: dict[str, object] | None = None
    priority: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    service_tier: str | None = None
    cache_salt: str | None = None
    user: str | None = None


class GenerationRequest(CommonFields, frozen=True, kw_only=True):
    """What chat and plain completions share."""

    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    response_format: dict[str, object] | None = None
    return_token_ids: bool | None = None


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    reasoning_format: ReasoningFormat = "parsed"
    recover: bool | None = None
    votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] | Votes | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: str | dict[str, object] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, object] | None = None
    metadata: dict[str, object] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """`POST /v1/completions`: raw text in, raw text out, no trace handling."""

    prompt: str | list[int | str | list[int]]
    suffix: str | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    add_special_tokens: bool | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """`POST /tokenize`: the ids of a chat (as the template renders it) or of a text."""

    model: str | None = None
    messages: list[Message] | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


NOT_FOR_ENGINE = frozenset(
    {
        "preset",
        "reasoning_effort",
        "reasoning_format",
        "recover",
        "votes",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "verbosity",
        "modalities",
        "best_of",
    }
)
"""Fields that the router acts on itself, or accepts for OpenAI's clients and ignores."""


def parse_json(body: bytes) -> dict[str, object]:
    """Raises `MalformedJSON` where the body isn't a JSON object."""
    try:
        data = msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise MalformedJSON(f"the body is not valid JSON: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise MalformedJSON("the body is not valid UTF-8") from exc
    except RecursionError as exc:
        raise MalformedJSON("the body is nested too deeply") from exc
    if not isinstance(data, dict):
        raise MalformedJSON(f"the body must be a JSON object, not {_json_type(data)}")
    return data


def parse_chat(data: Mapping[str, object]) -> ChatRequest:
    """Raises `InvalidRequest` (and its kinds). Message contents come out as plain text."""
    request = convert_request(data, ChatRequest)
    if not request.messages:
        raise InvalidRequest(
            "`messages` is empty; send at least one user message", param="messages"
        )
    for position, message in enumerate(request.messages):
        message.content = _text(message, f"messages[{position}]")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidRequest(
            "`max_tokens` and `max_completion_tokens` mean the same; send one of them",
            param="max_tokens",
        )
    if request.reasoning_effort is not None and request.thinking_token_budget is not None:
        raise InvalidRequest(
            "`reasoning_effort` and `thinking_token_budget` both set the budget; send one of them",
            param="reasoning_effort",
        )
    return request


def parse_completion(data: Mapping[str, object]) -> CompletionRequest:
    return convert_request(data, CompletionRequest)


def parse_tokenize(data: Mapping[str, object]) -> TokenizeRequest:
    request = convert_request(data, TokenizeRequest)
    if (request.messages is None) == (request.prompt is None):
        raise InvalidRequest("send either `messages` or `prompt`", param="messages")
    for position, message in enumerate(request.messages or ()):
        message.content = _text(message, f"messages[{position}]")
    return request


def convert_request(data: Mapping[str, object], kind: type[R], path: str = "") -> R:
    """A body, or what stands in it at `path`, as a `kind`. Raises `InvalidRequest` that names the
    field."""
    try:
        return convert(data, kind, path)
    except UnknownKeyError as exc:
        raise UnknownField(str(exc), param=exc.field) from exc
    except StrictError as exc:
        raise InvalidRequest(str(exc), param=exc.field or None) from exc


def _text(message: Message, where: str) -> str | None:
    """A message's text: a string as it is, a list of text parts joined."""
    content = message.content
    if content is None:
        if message.role == "assistant":
            return None
        raise InvalidRequest(f"`{where}.content` is missing", param=f"{where}.content")
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))


def _part(part: Mapping[str, object], where: str) -> str:
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        raise InvalidRequest(
            f"`{where}` has type `{kind}`, but the model is text-only; send `text` parts",
            param=where,
        )
    if not isinstance(text, str):
        raise InvalidRequest(f"`{where}.text` must be a string", param=f"{where}.text")
    return text


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
