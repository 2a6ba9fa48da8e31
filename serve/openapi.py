"""The OpenAPI document: request schemas from the structs that check the requests, replies by hand.

Replies are described as far as clients may rely on them; the engine adds fields of its own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from serve.messages import CountTokensRequest, MessagesRequest
from serve.protocol import ChatRequest, CompletionRequest, TokenizeRequest
from serve.responses import ResponsesRequest


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of `properties`, and maybe more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


_EVENTS = {"description": "`data:` events, each a chunk in JSON; the last is `[DONE]` or an error"}
_TYPED_EVENTS = {
    "description": "Events named by `event:`; the last is `response.completed`, "
    "`response.incomplete` or `response.failed`"
}
_MESSAGE_EVENTS = {"description": "Events named by `event:`; the last is `message_stop` or `error`"}
_ERROR = {
    "description": "An error, in OpenAI's form",
    "content": {
        "application/json": {
            "schema": _object(
                error=_object(
                    message={"type": "string"},
                    type={"type": "string"},
                    param={"type": ["string", "null"]},
                    code={"type": ["string", "null"]},
                )
            )
        }
    },
}


_MESSAGE_ERROR = {
    "description": "An error, in Anthropic's form",
    "content": {
        "application/json": {
            "schema": _object(
                type={"const": "error"},
                error=_object(type={"type": "string"}, message={"type": "string"}),
            )
        }
    },
}


def _generated(name: str, choice: dict[str, Any]) -> dict[str, Any]:
    return _object(
        id={"type": "string"},
        object={"const": name},
        created={"type": "integer"},
        model={"type": "string"},
        choices={"type": "array", "items": choice},
        usage=_object(
            prompt_tokens={"type": "integer"},
            completion_tokens={"type": "integer"},
            total_tokens={"type": "integer"},
        ),
    )


def _operation(
    kind: type,
    reply: dict[str, Any],
    *,
    events: dict[str, Any] | None = _EVENTS,
    error: dict[str, Any] = _ERROR,
) -> dict[str, Any]:
    """What is said of a POST that takes a `kind`; `events` are those of its streams."""
    schema = msgspec.json.schema(kind, schema_hook=lambda _: {"description": "any JSON"})
    definitions = schema.pop("$defs", {})
    inlined = _inline(definitions.get(kind.__name__, schema), definitions)
    content = {"application/json": {"schema": reply}}
    if events is not None:
        content["text/event-stream"] = {"schema": events}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": inlined | {"additionalProperties": False}}},
        },
        "responses": {"200": {"content": content}, "default": error},
    }


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return _inline(definitions[reference.rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    return schema


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document, with the errors that are ours and without those that are FastAPI's."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", _ERROR)
            if path == "/metrics":
                operation["responses"]["200"]["content"] = {"text/plain": {"schema": {}}}
    document.pop("components", None)
    return document


_INDEX = {"type": "integer"}
_FINISH = {"type": ["string", "null"]}
CHAT_SCHEMA = _operation(
    ChatRequest,
    _generated(
        "chat.completion",
        _object(
            index=_INDEX,
            finish_reason=_FINISH,
            message=_object(role={"const": "assistant"}, content={"type": ["string", "null"]}),
        ),
    ),
)
COMPLETION_SCHEMA = _operation(
    CompletionRequest,
    _generated(
        "text_completion", _object(index=_INDEX, finish_reason=_FINISH, text={"type": "string"})
    ),
)
TOKENIZE_SCHEMA = _operation(
    TokenizeRequest,
    _object(
        count={"type": "integer"},
        max_model_len={"type": "integer"},
        tokens={"type": "array", "items": {"type": "integer"}},
    ),
    events=None,
)
RESPONSES_SCHEMA = _operation(
    ResponsesRequest,
    _object(
        id={"type": "string"},
        object={"const": "response"},
        created_at={"type": "integer"},
        model={"type": "string"},
        status={"enum": ["completed", "incomplete"]},
        output={"type": "array", "items": _object(type={"type": "string"}, id={"type": "string"})},
        usage=_object(
            input_tokens={"type": "integer"},
            output_tokens={"type": "integer"},
            total_tokens={"type": "integer"},
        ),
    ),
    events=_TYPED_EVENTS,
)
MESSAGES_SCHEMA = _operation(
    MessagesRequest,
    _object(
        id={"type": "string"},
        type={"const": "message"},
        role={"const": "assistant"},
        model={"type": "string"},
        content={"type": "array", "items": _object(type={"type": "string"})},
        stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
        stop_sequence={"type": ["string", "null"]},
        usage=_object(input_tokens={"type": "integer"}, output_tokens={"type": "integer"}),
    ),
    events=_MESSAGE_EVENTS,
    error=_MESSAGE_ERROR,
)
COUNT_TOKENS_SCHEMA = _operation(
    CountTokensRequest,
    _object(input_tokens={"type": "integer"}),
    events=None,
    error=_MESSAGE_ERROR,
)
