"""The OpenAPI document: request schemas from the structs that check the requests, replies from
`serve.openapi_replies`, the words of both from `serve.openapi_fields`."""

from __future__ import annotations

from typing import Any

import msgspec

from serve import openapi_replies as replies
from serve.messages import CountTokensRequest, MessagesRequest
from serve.openapi_fields import description
from serve.protocol import ChatRequest, CompletionRequest, TokenizeRequest
from serve.responses import ResponsesRequest

Schema = dict[str, Any]
_EVENTS = "`data:` events, each a chunk in JSON; the last is `[DONE]` or an error"
_TYPED_EVENTS = (
    "events named by `event:`; the last is `response.completed`, `response.incomplete` or "
    "`response.failed`"
)
_MESSAGE_EVENTS = "events named by `event:`; the last is `message_stop` or `error`"


def complete(document: Schema) -> Schema:
    """FastAPI's document, with the replies and errors that are ours and without those that are
    FastAPI's."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", _ERROR)
            found = operation["responses"]["200"]
            found["description"] = "The reply"
            if path == "/metrics":
                found["content"] = {"text/plain": {"schema": {}}}
            elif path in replies.GETS:
                found["content"] = _json(_described(replies.GETS[path], "reply"))
    document.pop("components", None)
    return document


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _request(kind: type) -> Schema:
    schema = msgspec.json.schema(kind, schema_hook=lambda _: {"description": "any JSON"})
    definitions = schema.pop("$defs", {})
    inlined: Schema = _inline(definitions.get(kind.__name__, schema), definitions)
    inlined.pop("description", None)  # the struct's docstring is for its readers
    return _described(inlined, kind.__name__)


def _inline(schema: Any, definitions: Schema) -> Any:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return _inline(definitions[reference.rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    return schema


def _described(schema: Schema, kind: str, path: str = "") -> Schema:
    """A schema of ours (or the part of one at `path`) with what is said of its fields."""
    schema = dict(schema)
    if "anyOf" in schema:
        schema["anyOf"] = [_described(part, kind, path) for part in schema["anyOf"]]
    if "items" in schema:
        schema["items"] = _described(schema["items"], kind, f"{path}[]")
    if "properties" in schema:
        properties = {}
        for name, part in schema["properties"].items():
            at = f"{path}.{name}".removeprefix(".")
            words = description(kind, at)
            said = {"description": words} if words else {}
            properties[name] = said | _described(part, kind, at)
        schema["properties"] = properties
    return schema


def _error(told: str, schema: Schema) -> Schema:
    return {"description": told, "content": _json(_described(schema, "reply"))}


_ERROR = _error("An error, in OpenAI's form", replies.ERROR)
_MESSAGE_ERROR = _error("An error, in Anthropic's form", replies.MESSAGE_ERROR)


def _operation(
    told: tuple[str, str],
    kind: type,
    reply: Schema,
    *,
    events: str | None = _EVENTS,
    error: Schema = _ERROR,
) -> Schema:
    """What is said of a POST that takes a `kind`: `told` is a title and a sentence or two, `events`
    what its streams are made of."""
    content = _json(_described(reply, "reply"))
    if events is not None:
        content["text/event-stream"] = {"schema": {"description": events}}
    body = _request(kind) | {"additionalProperties": False}
    return {
        "summary": told[0],
        "description": told[1],
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"200": {"content": content}, "default": error},
    }


CHAT_SCHEMA = _operation(
    (
        "Chat",
        "OpenAI's Chat Completions, with the trace split off, thinking budgets, recovery, votes "
        "and presets.",
    ),
    ChatRequest,
    replies.CHAT,
)
COMPLETION_SCHEMA = _operation(
    ("Plain completion", "Raw text in, raw text out, as vLLM makes it: no trace, no presets."),
    CompletionRequest,
    replies.COMPLETION,
)
RESPONSES_SCHEMA = _operation(
    ("Response", "OpenAI's Responses, stateless, over the same generations as chats."),
    ResponsesRequest,
    replies.RESPONSE,
    events=_TYPED_EVENTS,
)
MESSAGES_SCHEMA = _operation(
    ("Message", "Anthropic's Messages, over the same generations as chats."),
    MessagesRequest,
    replies.MESSAGE,
    events=_MESSAGE_EVENTS,
    error=_MESSAGE_ERROR,
)
COUNT_TOKENS_SCHEMA = _operation(
    ("Tokens of a message", "How many tokens messages, system text and tools are, as sent."),
    CountTokensRequest,
    replies.COUNT,
    events=None,
    error=_MESSAGE_ERROR,
)
TOKENIZE_SCHEMA = _operation(
    ("Tokens of a text", "The token ids of a chat, as it would be sent, or of a text."),
    TokenizeRequest,
    replies.TOKENS,
    events=None,
)
