"""Presets: named sampling settings for kinds of work, and how a request takes them on. Pure.

`PresetBook` is one reading of `configs/presets.toml`. `plan_chat` turns a checked request into the
body that goes to an engine. Precedence, highest first: a field that the preset pins, the client's
explicit field, the preset's value, the engine's own default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve.balancing import affinity_key
from serve.errors import InvalidRequest, ModelNotFound
from serve.protocol import (
    NOT_FOR_ENGINE,
    ChatRequest,
    CompletionRequest,
    Message,
    ReasoningEffort,
    Sampling,
)
from serve.reasoning import ReasoningFormat
from serve.settings import SettingsError, config_dir, read_toml
from serve.strict import StrictError, convert, did_you_mean

SAMPLING_FIELDS = Sampling.__struct_fields__
BUDGET = "thinking_token_budget"


class Preset(Sampling, frozen=True, kw_only=True):
    """One `[presets.NAME]` table. None leaves a field to the client and the engine."""

    description: str
    source: str
    """Where the numbers come from: a model card, a paper, or our own measurement."""
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    instruction: str = ""
    """Appended to the last user turn: R1 wants no system prompt."""
    answer_form: Literal["boxed", "code", "json", "none"] = "none"
    pinned: list[str] = msgspec.field(default_factory=list)
    """Fields that a client can't override; its own value for them is set aside."""
    bounds: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    """Field → the lowest and highest value that a client may ask for."""

    def value(self, field: str) -> float | int | None:
        value: float | int | None = getattr(self, field)
        return value


class PresetBook(msgspec.Struct, frozen=True, kw_only=True):
    """All presets, and what each `reasoning_effort` means in tokens of thinking."""

    presets: dict[str, Preset]
    reasoning_effort: dict[ReasoningEffort, Annotated[int, Meta(ge=0)]]

    def get(self, name: str) -> Preset:
        """Raises `InvalidRequest` that lists the presets."""
        if name not in self.presets:
            raise InvalidRequest(
                f"unknown preset `{name}`{did_you_mean(name, self.presets)}; "
                f"the presets are {', '.join(sorted(self.presets))}",
                param="preset",
            )
        return self.presets[name]


class Plan(msgspec.Struct, kw_only=True):
    """Everything that is decided about a generation before any I/O."""

    model: str
    preset: str
    body: dict[str, object]
    """What goes to the engine; always a streaming request."""
    stream: bool
    num_choices: int
    include_usage: bool
    reasoning_format: ReasoningFormat = "parsed"
    return_token_ids: bool = False
    affinity: bytes | None = None
    """What the turns of one conversation share (`serve.balancing`)."""
    stop: list[str] = []
    include_stop: bool = False
    thinking_token_budget: int | None = None
    budget_source: Literal["request", "reasoning_effort", "preset", "none"] = "none"


def load_presets(path: Path | None) -> PresetBook:
    """The presets in `path`, or the shipped ones. Raises `SettingsError`."""
    path = path or config_dir() / "presets.toml"
    try:
        book = convert(read_toml(path), PresetBook)
        for name, preset in book.presets.items():
            _check(name, preset)
    except StrictError as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    return book


def _check(name: str, preset: Preset) -> None:
    fields = (*SAMPLING_FIELDS, "max_tokens", BUDGET)
    for field in (*preset.pinned, *preset.bounds):
        if field not in fields:
            raise StrictError(
                f"preset `{name}` pins or bounds `{field}`, which isn't one of {', '.join(fields)}"
            )
    for field, (low, high) in preset.bounds.items():
        value = preset.value(field)
        if low > high or (value is not None and not low <= value <= high):
            raise StrictError(f"preset `{name}`: its own {field} = {value} is not in {low}..{high}")


def resolve_model(
    asked: str | None, preset: str | None, served: Iterable[str], book: PresetBook
) -> tuple[str, str | None]:
    """(served model, preset named by the request or None) of `model` and the body's `preset`.

    `model` is a served name or `name:preset`. Raises `ModelNotFound`, or `InvalidRequest` where
    `model` and `preset` name different presets.
    """
    names = sorted(served)
    if asked is None:
        return names[0], preset
    if asked in names:
        return asked, preset
    name, _, suffix = asked.rpartition(":")
    if name in names and suffix in book.presets:
        if preset not in (None, suffix):
            raise InvalidRequest(
                f"`model` names the preset `{suffix}` and `preset` says `{preset}`; send one",
                param="preset",
            )
        return name, suffix
    if name in names:
        book.get(suffix)
    raise ModelNotFound(
        f"unknown model `{asked}`{did_you_mean(asked, names)}; served here: {', '.join(names)} "
        f"(also as `{names[0]}:PRESET`)",
        param="model",
    )


def plan_chat(
    request: ChatRequest,
    data: Mapping[str, object],
    *,
    model: str,
    max_model_len: int,
    preset_name: str,
    book: PresetBook,
    merge_system: bool,
) -> Plan:
    """What one chat request asks of an engine. `data` is the body that `request` was read from;
    `max_model_len` is the engine's context in tokens.

    Raises `InvalidRequest` where a field is outside the preset's bounds or the context.
    """
    preset = book.get(preset_name)
    body = _engine_fields(data)
    explicit = dict(body)
    limit = request.max_completion_tokens or request.max_tokens
    for ours in ("max_completion_tokens", "stop", "include_stop_str_in_output"):
        body.pop(ours, None)
    if limit is not None:
        explicit["max_tokens"] = limit
        if limit > max_model_len:
            raise InvalidRequest(
                f"`max_tokens` must be at most {max_model_len}, the model's context; got {limit}",
                param="max_tokens",
            )
    budget, source = _budget(request, preset, book)
    if budget is not None and source != "preset":
        explicit[BUDGET] = budget
    _check_bounds(explicit, preset, preset_name)
    for field in (*SAMPLING_FIELDS, "max_tokens"):
        value = preset.value(field)
        if value is not None and (field in preset.pinned or explicit.get(field) is None):
            body[field] = value
        elif explicit.get(field) is not None:
            body[field] = explicit[field]
    if "max_tokens" in body:
        body["max_tokens"] = min(int(str(body["max_tokens"])), max_model_len)
    body.pop(BUDGET, None)
    if budget is not None and budget < int(str(body.get("max_tokens", max_model_len))):
        body[BUDGET] = budget  # else it can't bind, and vLLM's bookkeeping of it costs each step
    body["model"] = model
    body["messages"] = engine_messages(request.messages, preset.instruction, merge_system)
    _ask_for_stream(body)
    options = request.stream_options
    return Plan(
        model=model,
        preset=preset_name,
        body=body,
        stream=bool(request.stream),
        num_choices=request.n or 1,
        include_usage=options is not None and options.include_usage,
        reasoning_format=request.reasoning_format,
        return_token_ids=bool(request.return_token_ids),
        affinity=affinity_key(request.messages),
        stop=_stop_strings(request.stop),
        include_stop=bool(request.include_stop_str_in_output),
        thinking_token_budget=budget,
        budget_source=source,
    )


def plan_completion(
    request: CompletionRequest, data: Mapping[str, object], *, model: str
) -> dict[str, object]:
    """A plain completion's engine body. Presets don't touch raw text."""
    if request.preset is not None:
        raise InvalidRequest(
            "`preset` works with chats; /v1/completions takes raw text", param="preset"
        )
    return _engine_fields(data) | {"model": model}


def engine_messages(
    messages: Iterable[Message], instruction: str, merge_system: bool
) -> list[dict[str, object]]:
    """The turns as the engine gets them: no trace in earlier turns, system text merged into the
    first user turn where `merge_system`, `instruction` appended to the last user turn."""
    turns = [_turn(message) for message in messages]
    if merge_system:
        system = [str(turn["content"]) for turn in turns if turn["role"] == "system"]
        turns = [turn for turn in turns if turn["role"] != "system"]
        _prepend(turns, "\n\n".join(text for text in system if text))
    if instruction:
        users = [turn for turn in turns if turn["role"] == "user"]
        if users:
            users[-1]["content"] = f"{users[-1]['content']}\n\n{instruction}"
        else:
            turns.append({"role": "user", "content": instruction})
    return turns


def _turn(message: Message) -> dict[str, object]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, object] = {"role": role, "content": message.content}
    for field in ("name", "tool_calls", "tool_call_id"):
        value = getattr(message, field)
        if value is not None:
            turn[field] = value
    return turn


def _prepend(turns: list[dict[str, object]], system: str) -> None:
    if not system:
        return
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first is None:
        turns.insert(0, {"role": "user", "content": system})
    else:
        first["content"] = f"{system}\n\n{first['content']}"


def _engine_fields(data: Mapping[str, object]) -> dict[str, object]:
    return {
        key: value for key, value in data.items() if key not in NOT_FOR_ENGINE and value is not None
    }


def _stop_strings(stop: str | list[str] | None) -> list[str]:
    """Not for the engine: see `serve.stopping`."""
    stops = [stop] if isinstance(stop, str) else stop or []
    if "" in stops:
        raise InvalidRequest("`stop` holds an empty string; leave it out", param="stop")
    return stops


def _ask_for_stream(body: dict[str, object]) -> None:
    """Engines are always asked to stream with token ids: one path for every reply, exact counts,
    and a cut-off is seen at once. A client that wants the whole gets it folded."""
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    body["return_token_ids"] = True


def _budget(
    request: ChatRequest, preset: Preset, book: PresetBook
) -> tuple[int | None, Literal["request", "reasoning_effort", "preset", "none"]]:
    if preset.thinking_token_budget is not None and BUDGET in preset.pinned:
        return preset.thinking_token_budget, "preset"
    if request.thinking_token_budget is not None:
        return request.thinking_token_budget, "request"
    if request.reasoning_effort is not None:
        return book.reasoning_effort.get(request.reasoning_effort), "reasoning_effort"
    if preset.thinking_token_budget is not None:
        return preset.thinking_token_budget, "preset"
    return None, "none"


def _check_bounds(explicit: Mapping[str, object], preset: Preset, name: str) -> None:
    for field, (low, high) in preset.bounds.items():
        value = explicit.get(field)
        if field in preset.pinned or not isinstance(value, int | float):
            continue
        if not low <= value <= high:
            raise InvalidRequest(
                f"`{field}` must be between {low:g} and {high:g} with preset `{name}`, got {value}",
                param=field,
            )
