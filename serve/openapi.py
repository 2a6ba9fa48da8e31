"""Request schemas for the OpenAPI document, made from the structs that check the requests."""

from __future__ import annotations

from typing import Any

import msgspec

from serve.protocol import ChatRequest, CompletionRequest, TokenizeRequest


def _body_of(kind: type) -> dict[str, Any]:
    schema = msgspec.json.schema(kind, schema_hook=lambda _: {"description": "any JSON"})
    definitions = schema.pop("$defs", {})
    inlined = _inline(definitions.get(kind.__name__, schema), definitions)
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": inlined}},
        }
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


CHAT_SCHEMA = _body_of(ChatRequest)
COMPLETION_SCHEMA = _body_of(CompletionRequest)
TOKENIZE_SCHEMA = _body_of(TokenizeRequest)
