"""Presets: precedence, pins, bounds, budgets, and what reaches the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.errors import InvalidRequest, ModelNotFound
from serve.plan import Plan, plan_chat
from serve.presets import Preset, PresetBook, load_presets, resolve_model
from serve.protocol import parse_chat
from serve.settings import SettingsError

CONTEXT_TOKENS = 4096
BOOK = PresetBook(
    presets={
        "plain": Preset(description="nothing set", source="test"),
        "strict": Preset(
            description="pins and bounds",
            source="test",
            temperature=0.5,
            top_p=0.9,
            max_tokens=100_000,
            thinking_token_budget=50,
            instruction="Do it.",
            pinned=["temperature"],
            bounds={"top_p": (0.5, 0.95), "thinking_token_budget": (10, 100)},
        ),
    },
    reasoning_effort={"none": 0, "low": 20, "high": 90},
)


def plan(
    preset: str = "plain",
    *,
    merge_system: bool = True,
    usual_answer_tokens: int | None = None,
    **fields: Any,
) -> Plan:
    data = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return plan_chat(
        parse_chat(data),
        data,
        model="m",
        max_model_len=CONTEXT_TOKENS,
        preset_name=preset,
        book=BOOK,
        merge_system=merge_system,
        usual_answer_tokens=usual_answer_tokens,
    )


def test_the_client_wins_unless_the_preset_pins() -> None:
    """temperature is pinned, top_p is only preset."""
    body = plan("strict", temperature=1.5, top_p=0.6).body
    assert (body["temperature"], body["top_p"]) == (0.5, 0.6)


def test_the_preset_fills_in_what_the_client_left_out() -> None:
    body = plan("strict").body
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    assert "temperature" not in plan("plain").body


def test_max_tokens_fit_the_context() -> None:
    """A preset's limit is cut to the context; a client's beyond it is its mistake."""
    assert plan("strict").body["max_tokens"] == CONTEXT_TOKENS
    assert plan("strict", max_completion_tokens=7).body["max_tokens"] == 7
    with pytest.raises(InvalidRequest, match=f"at most {CONTEXT_TOKENS}") as caught:
        plan(max_tokens=CONTEXT_TOKENS + 1)
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("preset", "fields", "budget", "source"),
    [
        ("plain", {"recover": False}, None, "none"),
        ("plain", {"ignore_eos": True}, None, "none"),
        ("plain", {}, CONTEXT_TOKENS - 1024, "answer_reserve"),
        ("plain", {"max_tokens": 2047}, 1023, "answer_reserve"),
        ("plain", {"max_tokens": 100}, 50, "answer_reserve"),
        ("plain", {"max_tokens": 1}, 0, "answer_reserve"),
        ("plain", {"max_tokens": 100, "thinking_token_budget": 51}, 50, "answer_reserve"),
        ("plain", {"max_tokens": 100, "thinking_token_budget": 50}, 50, "request"),
        ("plain", {"reasoning_effort": "none"}, 0, "reasoning_effort"),
        ("plain", {"reasoning_effort": "high"}, 90, "reasoning_effort"),
        ("plain", {"thinking_token_budget": 7}, 7, "request"),
        ("strict", {}, 50, "preset"),
        ("strict", {"reasoning_effort": "low"}, 20, "reasoning_effort"),
        ("strict", {"thinking_token_budget": 60}, 60, "request"),
    ],
)
def test_the_thinking_budget_and_where_it_comes_from(
    preset: str, fields: dict[str, Any], budget: int | None, source: str
) -> None:
    made = plan(preset, **fields)
    assert (made.budget.tokens, made.budget.source) == (budget, source)
    assert "thinking_token_budget" not in made.body, "the router keeps it itself"
    assert "reasoning_effort" not in made.body


def test_the_reserve_is_what_answers_usually_take() -> None:
    """Once that is known, and no more than the preset's; half of a small max_tokens at most."""
    for usual, max_tokens, reserve in [(80, 4000, 100), (5000, 4000, 1024), (80, 60, 30)]:
        made = plan("plain", max_tokens=max_tokens, usual_answer_tokens=usual)
        assert made.answer_reserve == reserve
        assert made.budget.tokens == max_tokens - reserve


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"top_p": 0.4}, "top_p", "between 0.5 and 0.95"),
        ({"thinking_token_budget": 5}, "thinking_token_budget", "between 10 and 100"),
        ({"reasoning_effort": "none"}, "thinking_token_budget", "between 10 and 100"),
    ],
)
def test_bounds_are_told(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        plan("strict", **fields)
    assert caught.value.param == param


def test_system_text_and_instruction_go_into_user_turns() -> None:
    """System text before the first user turn, the instruction after the last one."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1", "reasoning_content": "thought"},
        {"role": "user", "content": "two"},
    ]
    assert plan("strict", messages=messages).body["messages"] == [
        {"role": "user", "content": "Be brief.\n\none"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two\n\nDo it."},
    ]


def test_the_merge_of_system_text_can_be_switched_off() -> None:
    messages = [{"role": "developer", "content": "S"}, {"role": "user", "content": "u"}]
    body = plan(messages=messages, merge_system=False).body
    assert body["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "u"},
    ]


def test_a_chat_of_system_text_alone_becomes_a_user_turn() -> None:
    body = plan(messages=[{"role": "system", "content": "S"}]).body
    assert body["messages"] == [{"role": "user", "content": "S"}]


def test_the_engine_gets_its_own_fields_only() -> None:
    """Extras of ours and of OpenAI's clients stay here, vLLM's sampling fields go through."""
    body = plan(
        preset="plain", user="u", metadata={}, min_tokens=3, seed=1, stop=["x"], logprobs=True
    ).body
    assert {"preset", "user", "metadata", "reasoning_format", "stop"}.isdisjoint(body)
    assert (body["min_tokens"], body["seed"]) == (3, 1)
    assert body["stream"] is True
    assert body["return_token_ids"] is True


@pytest.mark.parametrize(
    ("asked", "preset", "expected"),
    [
        (None, None, ("a", None)),
        ("a", None, ("a", None)),
        ("a", "strict", ("a", "strict")),
        ("a:strict", None, ("a", "strict")),
        ("a:strict", "strict", ("a", "strict")),
        ("org/b:8b", None, ("org/b:8b", None)),
        ("org/b:8b:plain", None, ("org/b:8b", "plain")),
    ],
)
def test_a_model_name_may_carry_a_preset(
    asked: str | None, preset: str | None, expected: tuple[str, str | None]
) -> None:
    assert resolve_model(asked, preset, ["a", "org/b:8b"], BOOK) == expected


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ModelNotFound, match="served here: a"):
        resolve_model("b", None, ["a"], BOOK)
    with pytest.raises(InvalidRequest, match="did you mean `strict`") as caught:
        resolve_model("a:strickt", None, ["a"], BOOK)
    assert caught.value.param == "preset"
    with pytest.raises(InvalidRequest, match="send one"):
        resolve_model("a:strict", "plain", ["a"], BOOK)


def test_the_shipped_presets_load_and_follow_the_makers_advice() -> None:
    """All ten are there, each with its source; temperature between 0.5 and 0.7, no penalties."""
    book = load_presets(None)
    names = "chat math vote code logic explain grade debug report creative"
    assert sorted(book.presets) == sorted(names.split())
    for preset in book.presets.values():
        assert preset.description
        assert preset.source
        assert preset.temperature is not None
        assert 0.5 <= preset.temperature <= 0.7
        assert preset.repetition_penalty is None
    assert "\\boxed{}" in book.presets["math"].instruction


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[presets.a]\nsource='x'\n", "description"),
        ("[presets.a]\ndescription='d'\nsource='s'\ntemprature=1\n", "did you mean `temperature`"),
        ("[presets.a]\ndescription='d'\nsource='s'\npinned=['nope']\n", "nope"),
        (
            "[presets.a]\ndescription='d'\nsource='s'\ntop_p=0.1\nbounds={top_p=[0.5,1]}\n",
            "not in 0.5",
        ),
        ("[presets.a]\ndescription='d'\nsource='s'\ntemperature=9\n", "temperature"),
        ("nonsense", "not valid TOML"),
    ],
)
def test_a_broken_presets_file_says_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "presets.toml"
    path.write_text(f"{text}\n[reasoning_effort]\nlow = 1\n")
    with pytest.raises(SettingsError, match=says) as caught:
        load_presets(path)
    assert str(path) in str(caught.value)
