"""What may be set for the questions to come."""

from __future__ import annotations

import re

import msgspec
import pytest

from serve.protocol import parse_chat
from serve.terminal.conversation import Conversation, Exchange, request_body
from serve.terminal.options import BadOption, Options


def test_what_is_set_goes_into_requests_until_it_is_off() -> None:
    options = Options(model="m").changed("temperature", "0").changed("votes", "4")
    assert options.fields() == {"model": "m", "temperature": 0, "votes": 4}
    assert options.changed("votes", "off").fields() == {"model": "m", "temperature": 0}
    named = options.changed("thinking_token_budget", "0").by_name()
    assert named == {"votes": "4", "budget": "0", "temperature": "0"}


def test_budget_and_effort_take_each_others_place() -> None:
    """The server refuses both at once."""
    options = Options().changed("reasoning_effort", "low").changed("thinking_token_budget", "64")
    assert options.fields() == {"thinking_token_budget": 64}
    assert options.changed("reasoning_effort", "low").fields() == {"reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("temperature", "5", "`temperature` must be between 0 and 2, got 5"),
        ("top_p", "0", "`top_p` must be above 0 and at most 1, got 0"),
        ("max_tokens", "0", "`max_tokens` must be at least 1, got 0"),
        ("votes", "65", "`votes` must be between 1 and 64, got 65"),
        ("votes", "many", "`votes`: expected `int | null`, got `str`"),
        ("temperature", "nan", "`temperature`"),
        ("thinking_token_budget", "-1", "must be at least 0, got -1"),
        ("max_tokens", "1.5", "`max_tokens`"),
    ],
)
def test_what_the_server_would_refuse_is_told_at_once(field: str, text: str, words: str) -> None:
    with pytest.raises(BadOption, match=re.escape(words)) as caught:
        Options().changed(field, text)
    assert "`off` leaves it to the preset" in str(caught.value)


def test_the_server_takes_what_can_be_set() -> None:
    """By its own parser."""
    options = Options(model="m", preset="p")
    for field, text in (("votes", "64"), ("reasoning_effort", "low"), ("top_p", "0.5")):
        options = options.changed(field, text)
    body = request_body(Conversation("", 0, [Exchange("q")]), options)
    assert parse_chat(msgspec.json.decode(body)).votes == 64
