"""What the OpenAPI document says of replies: what clients may rely on. Engines add fields of their
own."""

from __future__ import annotations

from typing import Any

from serve.health import State

Schema = dict[str, Any]


def _object(optional: Schema | None = None, **properties: Schema) -> Schema:
    """An object that has all of `properties`, perhaps some of `optional`, and maybe more."""
    return {
        "type": "object",
        "properties": properties | (optional or {}),
        "required": list(properties),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
TEXT: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": ["number", "null"]}

_RECOVERED = _one_of("length", "eos", "repetition")
R1 = _object(
    {
        "recovered": {"anyOf": [_RECOVERED, _list({"anyOf": [_RECOVERED, {"type": "null"}]})]},
        "failovers": INTEGER,
        "seed_kept": {"type": "boolean"},
        "votes": {"type": "object"},
    },
    preset=STRING,
    thinking_token_budget={"type": ["integer", "null"]},
    budget_source=STRING,
)


def _openai_reply(name: str, choice: Schema, optional: Schema | None = None) -> Schema:
    return _object(
        optional,
        id=STRING,
        object={"const": name},
        created=INTEGER,
        model=STRING,
        choices=_list(_object(index=INTEGER, finish_reason=TEXT, **choice)),
        usage=_object(
            {"completion_tokens_details": _object(reasoning_tokens=INTEGER)} if optional else None,
            prompt_tokens=INTEGER,
            completion_tokens=INTEGER,
            total_tokens=INTEGER,
        ),
    )


CHAT = _openai_reply(
    "chat.completion",
    {
        "message": _object(
            {
                "reasoning_content": TEXT,
                "reasoning": TEXT,
                "tool_calls": _list({"type": "object"}),
            },
            role={"const": "assistant"},
            content=TEXT,
        )
    },
    {"r1": R1},
)
COMPLETION = _openai_reply("text_completion", {"text": STRING})
RESPONSE = _object(
    {"r1": R1},
    id=STRING,
    object={"const": "response"},
    created_at=INTEGER,
    model=STRING,
    status=_one_of("completed", "incomplete"),
    output=_list(_object(type=STRING, id=STRING)),
    usage=_object(input_tokens=INTEGER, output_tokens=INTEGER, total_tokens=INTEGER),
)
MESSAGE = _object(
    {"r1": R1},
    id=STRING,
    type={"const": "message"},
    role={"const": "assistant"},
    model=STRING,
    content=_list(_object(type=STRING)),
    stop_reason=_one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
    stop_sequence=TEXT,
    usage=_object(input_tokens=INTEGER, output_tokens=INTEGER),
)
COUNT = _object(input_tokens=INTEGER)
TOKENS = _object(count=INTEGER, max_model_len=INTEGER, tokens=_list(INTEGER))

ERROR = _object(error=_object(message=STRING, type=STRING, param=TEXT, code=TEXT))
MESSAGE_ERROR = _object(type={"const": "error"}, error=_object(type=STRING, message=STRING))

_MODEL = {
    "id": STRING | {"description": "The served name, plain or with a preset."},
    "object": {"const": "model"},
    "created": INTEGER | {"description": "Always 0."},
    "owned_by": STRING,
    "max_model_len": INTEGER,
}
_OK: Schema = {"const": "ok", "description": "Always `ok`."}


def _all(card: Schema, **more: Schema) -> Schema:
    told = {"description": card["description"]} if "description" in card else {}
    return _object(object={"const": "list"}, **more, data=_list(card) | told)


GETS = {
    "/health": _object(status=_OK),
    "/ready": _object(status=_OK, replicas_ready=INTEGER),
    "/replicas": _all(
        _object(
            url=STRING,
            object={"const": "replica"},
            ready={"type": "boolean"},
            state=_one_of(*(state.value for state in State)),
            model=TEXT,
            in_flight=INTEGER,
            running=NUMBER,
            waiting=NUMBER,
            kv_cache_usage=NUMBER,
            ejections={"type": "object"},
            last_error=TEXT,
        )
    ),
    "/v1/models": _all(_object(**_MODEL)),
    "/v1/models/{model}": _object(**_MODEL),
    "/v1/presets": _all(
        _object(id=STRING, object={"const": "preset"}, description=STRING, source=STRING)
        | {"description": "All keys of each."},
        default=STRING,
        reasoning_effort={"type": "object"},
    ),
}
"""Replies of the routes that take no body, by path."""
