"""How a request takes its preset on: `plan_chat` turns it into the body that goes to an engine.

Precedence, highest first: a field that the preset pins, the client's explicit field, the preset's
value, the engine's own default. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from serve.balancing import affinity_key
from serve.budget import Budget, answer_reserve, asked_budget
from serve.errors import InvalidRequest
from serve.presets import BUDGET, SAMPLING_FIELDS, Preset, PresetBook
from serve.protocol import NOT_FOR_ENGINE, ChatRequest, CompletionRequest
from serve.reasoning import ReasoningFormat
from serve.tally import Votes
from serve.turns import engine_messages


class Plan(msgspec.Struct, kw_only=True):
    """Everything that is decided about a generation before any I/O."""

    model: str
    preset: str
    body: dict[str, object]
    """What goes to the engine for one choice; always a streaming request."""
    stream: bool
    num_choices: int
    include_usage: bool
    max_tokens: int
    """Of thinking and answer together; the model's context where nobody set a limit."""
    budget: Budget = Budget()
    answer_reserve: int = 0
    """Of `max_tokens`, what thinking leaves for the answer."""
    recovers: bool = False
    """Whether a trace that ends without an answer is closed and continued to one."""
    reasoning_format: ReasoningFormat = "parsed"
    return_token_ids: bool = False
    affinity: bytes | None = None
    """What the turns of one conversation share (`serve.balancing`)."""
    stop: list[str] = []
    include_stop: bool = False
    votes: Votes | None = None


def plan_chat(
    request: ChatRequest,
    data: Mapping[str, object],
    *,
    model: str,
    max_model_len: int,
    preset_name: str,
    book: PresetBook,
    merge_system: bool,
    cap: Callable[[int], int] | None = None,
    usual_answer_tokens: int | None = None,
) -> Plan:
    """What one chat request asks of an engine. `data` is the body that `request` was read from;
    `max_model_len` is the engine's context in tokens; `cap` is what a brownout makes of a thinking
    budget, where a trace that it cuts is continued to an answer; `usual_answer_tokens` is how long
    answers with this preset have been.

    Raises `InvalidRequest` where a field is outside the preset's bounds or the context.
    """
    preset = book.get(preset_name)
    body = _engine_fields(data)
    explicit = dict(body)
    limit = request.max_completion_tokens or request.max_tokens
    for ours in ("max_completion_tokens", "n", "stop", "include_stop_str_in_output"):
        body.pop(ours, None)
    if limit is not None:
        explicit["max_tokens"] = limit
        if limit > max_model_len:
            raise InvalidRequest(
                f"`max_tokens` must be at most {max_model_len}, the model's context; got {limit}",
                param="max_tokens",
            )
    asked = asked_budget(request, preset, book)
    if asked.tokens is not None and asked.source != "preset":
        explicit[BUDGET] = asked.tokens
    _check_bounds(explicit, preset, preset_name)
    for field in (*SAMPLING_FIELDS, "max_tokens"):
        value = preset.value(field)
        if value is not None and (field in preset.pinned or explicit.get(field) is None):
            body[field] = value
        elif explicit.get(field) is not None:
            body[field] = explicit[field]
    max_tokens = min(int(str(body.get("max_tokens", max_model_len))), max_model_len)
    if "max_tokens" in body:
        body["max_tokens"] = max_tokens
    recovers = request.recover is not False and not request.ignore_eos
    reserve = 0
    if recovers:
        reserve = answer_reserve(preset.answer_reserve_tokens, max_tokens, usual_answer_tokens)
    budget = asked.within(max_tokens, reserve)
    if cap is not None and recovers:
        budget = budget.capped(cap, max_tokens)
    body.pop(BUDGET, None)  # the router keeps it: see `serve.generation`
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
        max_tokens=max_tokens,
        budget=budget,
        answer_reserve=reserve,
        recovers=recovers,
        reasoning_format=request.reasoning_format,
        return_token_ids=bool(request.return_token_ids),
        affinity=affinity_key(request.messages),
        stop=_stop_strings(request.stop),
        include_stop=bool(request.include_stop_str_in_output),
        votes=_votes(request, preset, body),
    )


def _votes(request: ChatRequest, preset: Preset, body: Mapping[str, object]) -> Votes | None:
    """How the request's samples vote, if it has several. Raises `InvalidRequest` where they can't;
    a preset's votes are left out there."""
    asked = Votes(n=request.votes) if isinstance(request.votes, int) else request.votes
    votes = asked or Votes(n=preset.votes)
    if votes.n == 1:
        return None
    form = votes.answer_form or preset.answer_form
    obstacles = {
        "n": (request.n or 1) > 1 and "send `n` or `votes`, not both",
        "tools": bool(body.get("tools")) and "calls of tools can't be counted",
        "temperature": body.get("temperature") == 0 and "at temperature 0 all samples are the same",
        "votes": form == "none"
        and "nothing says where the answer stands: take a preset with an `answer_form` (math), or "
        'send it, `"votes": {"n": 8, "answer_form": "boxed"}`',
    }
    for field, why in obstacles.items():
        if why and asked is None:
            return None
        if why:
            raise InvalidRequest(f"no vote is possible here: {why}", param=field)
    return msgspec.structs.replace(votes, answer_form=form)


def plan_completion(
    request: CompletionRequest, data: Mapping[str, object], *, model: str
) -> dict[str, object]:
    """A plain completion's engine body. Presets don't touch raw text."""
    if request.preset is not None:
        raise InvalidRequest(
            "`preset` works with chats; /v1/completions takes raw text", param="preset"
        )
    return _engine_fields(data) | {"model": model}


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
