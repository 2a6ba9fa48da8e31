"""Requests are checked before anything else, and every refusal names the field and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import InvalidRequest, MalformedJSON, ServeError, UnknownField
from serve.protocol import parse_chat, parse_completion, parse_json, parse_tokenize

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "not an array"),
        (b'"x"', "not a string"),
        (b"3", "not a number"),
        (b"null", "not null"),
        (b'{"a": "\xff"}', "not valid"),
        (b"", "not valid JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(MalformedJSON, match=says):
        parse_json(body)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"messages": []}, "messages", "is empty"),
        ({"temperature": 3}, "temperature", "between 0 and 2, got 3"),
        ({"temperature": "hot"}, "temperature", "expected `float"),
        ({"top_p": 0}, "top_p", "above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "top_p", "above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p", "between 0 and 1"),
        ({"n": 0}, "n", "between 1 and 128"),
        ({"n": 1.5}, "n", "expected `int"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": True}, "max_tokens", "expected `int"),
        ({"thinking_token_budget": -1}, "thinking_token_budget", "at least 0"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "huge"),
        ({"reasoning_format": "xml"}, "reasoning_format", "xml"),
        ({"stream": "yes"}, "stream", "expected `bool"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "mean the same"),
        ({"reasoning_effort": "low", "thinking_token_budget": 5}, "reasoning_effort", "one of"),
        ({"messages": "hi"}, "messages", "expected `array`"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "robot"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "text-only",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "messages[0].content[0].text",
            "must be a string",
        ),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], param: str, says: str) -> None:
    """Each kind of mistake gives a 400 with the field in `param` and what would be right."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_chat({"messages": HELLO, **fields})
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("field", "meant"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("Top_P", "top_p")],
)
def test_an_unknown_field_is_refused_with_the_nearest_name(field: str, meant: str) -> None:
    with pytest.raises(UnknownField, match=f"did you mean `{meant}`"):
        parse_chat({"messages": HELLO, field: 1})


def test_a_missing_messages_field_is_named() -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        parse_chat({"model": "x"})


def test_text_parts_become_one_text() -> None:
    """A content of parts, and an assistant turn without content, are fine."""
    request = parse_chat(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}] * 2},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "user", "content": "b", "some_extra": 1},
            ]
        }
    )
    assert [message.content for message in request.messages] == ["aa", None, "b"]


def test_fields_of_openai_clients_are_accepted() -> None:
    """What the official SDKs may send and the engine has no use for doesn't fail."""
    fields = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert parse_chat({"messages": HELLO, **fields}).user == "u"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_completions_take_every_form_of_prompt(prompt: object) -> None:
    assert parse_completion({"prompt": prompt}).prompt == prompt


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": HELLO}])
def test_tokenize_wants_one_of_two(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="either"):
        parse_tokenize(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = ["messages", "temperature", "n", "stop", "stream_options", "logit_bias", "preset", "x"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_is_parsed_or_refused(body: dict[str, Any]) -> None:
    """Whatever comes, the outcome is a request or a 4xx, never another error."""
    for parse in (parse_chat, parse_completion, parse_tokenize):
        try:
            parse(body)
        except ServeError as exc:
            refused_with = exc.status
        else:
            refused_with = 400
        assert 400 <= refused_with < 500
