"""The words of the OpenAPI document, and the page that is written from it. That it is true is held
against the router by `tests/faults/test_openapi.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scripts.api_reference import PAGE, openapi, page, type_of
from serve.openapi_fields import FIELDS

Schema = dict[str, Any]


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    for part in schema.get("anyOf", [schema]):
        yield from fields(part["items"], f"{path}[]") if "items" in part else ()
        for name, inner in part.get("properties", {}).items():
            at = f"{path}.{name}".removeprefix(".")
            yield at, inner
            yield from fields(inner, at)


def schemas() -> Iterator[Schema]:
    for item in openapi()["paths"].values():
        for operation in item.values():
            for message in (operation.get("requestBody", {}), *operation["responses"].values()):
                yield from (it["schema"] for it in message.get("content", {}).values())


def test_every_field_has_words() -> None:
    assert [
        at for schema in schemas() for at, it in fields(schema) if "description" not in it
    ] == []


def test_no_words_are_for_a_field_that_does_not_exist() -> None:
    said = {it["description"] for schema in schemas() for _, it in fields(schema)}
    assert set(FIELDS.values()) <= said


def test_operations_have_titles_and_sentences() -> None:
    for item in openapi()["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert operation["description"].endswith(".")


def test_the_reference_is_what_would_be_written_now() -> None:
    """Else: make api-reference."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "number", "minimum": 0.0, "maximum": 2.0}, "number, 0 to 2"),
        ({"type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0}, "number, above 0, to 1"),
        ({"type": "integer", "minimum": 1.0}, "integer, 1 or more"),
        ({"type": "integer", "minimum": -9.3e18, "maximum": 9.3e18}, "integer, 64 bits"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        (
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "maxItems": 16},
                    {"type": "null"},
                ]
            },
            "string, or list of strings, at most 16",
        ),
    ],
)
def test_types_are_told_in_words_with_their_range(schema: Schema, words: str) -> None:
    assert type_of(schema) == words
