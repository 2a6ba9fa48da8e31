"""Writes docs/api-reference.md from the OpenAPI document and the exception tree.

    python -m scripts.api_reference

A test holds the committed page against what this would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve.errors import ServeError, TooManyRequests
from serve.messages_reply import error_body
from serve.router import build_app
from serve.settings import RouterSettings, Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api-reference.md"
Schema = dict[str, Any]

_HEAD = """\
# API reference

Every path, field and error. `make api-reference` writes this page from the document that the
router serves at `/openapi.json`, which is the same for programs. What it all means, with examples:
[API](api.md).

A field without a default may be left out, or be `null`, which is the same. A field that is not here
is refused.
"""
_SHARED = """\
## Fields of all generations

`POST /v1/chat/completions`, `/v1/completions`, `/v1/responses` and `/v1/messages` have these in
common; their own are below.
"""
_ERRORS = """\
## Errors

`code` is in OpenAI's form of an error; under `/v1/messages` errors have Anthropic's form, with the
`type` of the last column. A request that is refused with 429 or 503 is told in `Retry-After` when
to come back.
"""


def page() -> str:
    document = openapi()
    generations = [
        request
        for path, item in document["paths"].items()
        if "text/event-stream" in _content(item) and (request := _request(item))
    ]
    shared = {
        name: part
        for name, part in generations[0]["properties"].items()
        if all(_same(part, it["properties"].get(name)) for it in generations)
    }
    sections = [_HEAD, _SHARED, _table(_fields({"properties": shared, "required": []}))]
    for path, item in document["paths"].items():
        sections += _operation(path, item, shared)
    return "\n".join([*sections, _ERRORS, _errors()])


def openapi() -> Schema:
    """No engine has to be there for it."""
    settings = Settings(router=RouterSettings(engine_urls=["http://127.0.0.1:9"]))
    return build_app(settings).openapi()


def _content(item: Schema) -> Schema:
    (operation,) = item.values()
    content: Schema = operation["responses"]["200"]["content"]
    return content


def _request(item: Schema) -> Schema | None:
    (operation,) = item.values()
    if "requestBody" not in operation:
        return None
    schema: Schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def _same(one: Schema, other: Schema | None) -> bool:
    """The same field in type and range; words for a single request may differ."""
    return other is not None and {**one, "description": ""} == {**other, "description": ""}


def _operation(path: str, item: Schema, shared: Schema) -> Iterator[str]:
    ((method, operation),) = item.items()
    yield f"## {method.upper()} {path}\n"
    yield f"{operation.get('description', '').strip()}\n"
    request, content = _request(item), _content(item)
    if request is not None:
        own = {
            name: part for name, part in request["properties"].items() if part != shared.get(name)
        }
        if "text/event-stream" in content:
            yield "Beside the [fields of all generations](#fields-of-all-generations):\n"
        yield _table(_fields({**request, "properties": own}))
    reply = content.get("application/json", {}).get("schema")
    if reply is not None:
        yield "The reply, 200:\n"
        yield _table(_fields(reply), is_reply=True)
    if events := content.get("text/event-stream"):
        yield f'With `"stream": true`: {events["schema"]["description"]}.\n'


def _fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """(path, schema, whether it must be there) of each field, objects' own after them."""
    required = schema.get("required", ())
    properties = schema.get("properties", {}).items()
    for name, part in sorted(properties, key=lambda it: it[0] not in required):
        yield f"{path}{name}", part, name in required
        for inner, suffix in _objects(part):
            yield from _fields(inner, f"{path}{name}{suffix}.")


def _objects(schema: Schema) -> Iterator[tuple[Schema, str]]:
    for part in schema.get("anyOf", [schema]):
        if part.get("type") == "array":
            yield part["items"], "[]"
        else:
            yield part, ""


def _table(fields: Iterator[tuple[str, Schema, bool]], *, is_reply: bool = False) -> str:
    rows: list[tuple[str, ...]] = []
    for path, part, required in fields:
        words = part.get("description", "")
        if is_reply:
            rows.append((f"`{path}`", type_of(part), words))
        else:
            default = "required" if required else _default(part)
            rows.append((f"`{path}`", type_of(part), default, words))
    head = ("field", "type", "meaning") if is_reply else ("field", "type", "default", "meaning")
    return _markdown(head, rows)


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _default(part: Schema) -> str:
    return f"`{json.dumps(part['default'])}`" if "default" in part else ""


def type_of(schema: Schema) -> str:
    """A schema in a few words, with its range; null isn't told, since it means left out."""
    parts = [type_of(it) for it in schema.get("anyOf", ()) if it.get("type") != "null"]
    if parts:
        return ", or ".join(parts)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = schema.get("type", "any")
    kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if kind == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {_plural(type_of(schema['items']))}{most}"
    return f"{kind}{_range(schema)}"


def _plural(kind: str) -> str:
    return f"{kind}s" if kind.isalpha() else f"({kind})"


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return ", 64 bits" if high >= 2**63 - 1 else f", {low:g} to {high:g}"
    if low is not None:
        return f", {low:g} or more"
    if "exclusiveMinimum" in schema:
        return f", above {schema['exclusiveMinimum']:g}" + (f", to {high:g}" if high else "")
    return ""


def _errors() -> str:
    """By status, from the exception tree."""
    found: list[type[ServeError]] = [ServeError, *_below(ServeError)]
    told = {(kind.status, str(kind.code)): kind for kind in reversed(found)}
    rows: list[tuple[str, ...]] = [
        (str(status), f"`{code}`", _first_sentence(kind), f"`{kind.kind}`", f"`{_type(kind)}`")
        for (status, code), kind in sorted(told.items())
    ]
    return _markdown(("status", "`code`", "when", "`type`", "Anthropic's `type`"), rows)


def _below(kind: type[ServeError]) -> Iterator[type[ServeError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _first_sentence(kind: type[ServeError]) -> str:
    words = " ".join((kind.__doc__ or "").split())
    return re.split(r"\.(?=\s|$)", words)[0] + "."


def _type(kind: type[ServeError]) -> str:
    """As Anthropic calls it."""
    if issubclass(kind, TooManyRequests):
        error: ServeError = kind("", reason="", retry_after_s=1)
    else:
        error = kind("")
    return str(json.loads(error_body(error))["error"]["type"])


if __name__ == "__main__":
    PAGE.write_text(page())
