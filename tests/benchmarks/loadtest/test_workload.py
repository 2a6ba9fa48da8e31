"""Workloads: what they ask, that they ask it again, and what is wrong with a file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from random import Random

import msgspec
import pytest

from benchmarks.loadtest.load import Arrival
from benchmarks.loadtest.spread import Spread, draw
from benchmarks.loadtest.workload import (
    SHIPPED,
    Conversations,
    folder_of,
    load_workload,
    prompt_words,
    shipped,
)
from serve.settings import SettingsError

HAS_GYM = find_spec("reasoning_gym") is not None
NEEDS_GYM = {"math", "long-thinking", "mixed"}


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_workload_asks_the_same_again(name: str) -> None:
    if name in NEEDS_GYM and not HAS_GYM:
        pytest.skip("reasoning-gym is not installed")
    workload = load_workload(name)
    assert workload.description
    one, other = Conversations(workload), Conversations(workload)
    asked = [one.next() for _ in range(20)]
    again = [other.next() for _ in range(20)]
    assert [[t.task.prompt for t in c.turns] for c in asked] == [
        [t.task.prompt for t in c.turns] for c in again
    ]
    assert [[t.fields for t in c.turns] for c in asked] == [
        [t.fields for t in c.turns] for c in again
    ]


def test_another_load_asks_other_things_and_the_same_load_the_same() -> None:
    conversations = Conversations(load_workload("demo"))

    def asked(part: str) -> list[str]:
        conversations.restart(part)
        return [conversations.next().turns[0].task.prompt for _ in range(20)]

    first = asked("0/4 at a time")
    assert asked("0/8 at a time") != first
    assert asked("1/4 at a time") != first
    assert asked("0/4 at a time") == first


def test_another_test_has_other_words_of_the_same_lengths() -> None:
    """Which no server has in its prefix cache from the test before."""
    workload = load_workload("chat")
    one, other = (Conversations(workload, nonce=nonce) for nonce in "ab")
    for _ in range(20):
        texts = [c.next().turns[0].task.prompt for c in (one, other)]
        assert texts[0][:60] != texts[1][:60]
        assert len(texts[0].split()) == len(texts[1].split())


@pytest.mark.parametrize("name", shipped())
def test_a_workload_is_the_same_after_it_was_kept(name: str) -> None:
    """`bench compare` asks for that."""
    workload = load_workload(name)
    kept = msgspec.json.decode(msgspec.json.encode(workload), type=type(workload))
    assert kept == workload
    assert str(SHIPPED) not in msgspec.json.encode(workload).decode()


def test_a_spread_without_an_end_can_be_kept(tmp_path: Path) -> None:
    text = (
        '[[tenants]]\nname = "a"\nprompts = { from = "words", tokens = 5 }\n'
        "pause_s = { median = 10, sigma = 0.7 }"
    )
    workload = load_workload(written(tmp_path, text))
    assert msgspec.json.decode(msgspec.json.encode(workload), type=type(workload)) == workload


def test_answers_are_checked() -> None:
    task = Conversations(load_workload("grading")).next().turns[0].task
    assert task.check is not None
    assert [task.check(rf"So \boxed{{{mark}}}.") for mark in "AB"].count(True) == 1
    assert not task.check("I don't know.")


@pytest.mark.skipif(not HAS_GYM, reason="reasoning-gym is not installed")
def test_reasoning_gyms_tasks_are_checked_by_it(tmp_path: Path) -> None:
    text = '[[tenants]]\nname = "a"\nprompts = { from = "reasoning-gym", tasks = ["chain_sum"] }'
    task = Conversations(load_workload(written(tmp_path, text))).next().turns[0].task
    question = task.prompt.rpartition(":")[2].replace("=", "").strip(" .?")
    assert task.check is not None
    assert task.check(rf"It is \boxed{{{eval(question)}}}.")
    assert not task.check(r"It is \boxed{0.5}.")


def test_words_are_as_many_as_asked_and_never_begin_alike() -> None:
    conversations = Conversations(load_workload("fixed"))
    prompts = [conversations.next().turns[0].task.prompt for _ in range(50)]
    assert {len(prompt.split()) for prompt in prompts} == {96}
    assert len({prompt[:40] for prompt in prompts}) == 50


def test_an_arrival_of_a_trace_sets_the_lengths() -> None:
    turn = Conversations(load_workload("fixed")).next(Arrival(0.0, 400, 33)).turns[0]
    assert len(turn.task.prompt.split()) == 300
    assert turn.fields["max_tokens"] == 33
    assert turn.fields["ignore_eos"] is True


def test_fields_that_are_spreads_are_drawn(tmp_path: Path) -> None:
    text = (
        '[[tenants]]\nname = "a"\nprompts = { from = "words", tokens = 5 }\n'
        "[tenants.fields]\nmax_tokens = { min = 10, max = 20 }\nlogit_bias = { 5 = -100 }\n"
    )
    conversations = Conversations(load_workload(written(tmp_path, text)))
    fields = [conversations.next().turns[0].fields for _ in range(50)]
    assert {it["max_tokens"] for it in fields} <= set(range(10, 21))
    assert len({it["max_tokens"] for it in fields}) > 5
    assert fields[0]["logit_bias"] == {"5": -100}


def test_tenants_come_by_their_weight() -> None:
    words = prompt_words(load_workload("chat"))
    low, middle, high = words["chat"]
    assert low < middle < high


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs one \\[\\[tenants\\]\\]"),
        ('[[tenants]]\nname = "a"\nprompt = 1', "unknown field `prompt`"),
        ('[[tenants]]\nname = "a"\nprompts = { from = "words", token = 5 }', "token"),
        ('[[tenants]]\nname = "a"\nprompts = { from = "word", tokens = 5 }', "word"),
        (
            '[[tenants]]\nname = "a"\nprompts = { from = "words", tokens = { sigma = 1 } }',
            "needs `median`",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_workload(written(tmp_path, text))


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"there are: .*chat.*demo"):
        load_workload("chats")


def test_a_missing_prompts_file_is_named(tmp_path: Path) -> None:
    text = '[[tenants]]\nname = "a"\nprompts = { from = "file", path = "none.jsonl" }'
    with pytest.raises(SettingsError, match=r"none.jsonl: No such file"):
        load_workload(written(tmp_path, text))


def test_a_file_of_prompts_lies_beside_its_workload_and_its_content_counts(tmp_path: Path) -> None:
    text = '[[tenants]]\nname = "a"\nprompts = { from = "file", path = "mine.jsonl" }'
    (tmp_path / "mine.jsonl").write_text('{"prompt": "one?"}\n')
    name = written(tmp_path, text)
    before = load_workload(name)
    conversation = Conversations(before, folder_of(name)).next()
    assert conversation.turns[0].task.prompt == "one?"
    (tmp_path / "mine.jsonl").write_text('{"prompt": "two?"}\n')
    assert load_workload(name) != before


def test_a_spread_keeps_to_its_bounds_and_median() -> None:
    rng, spread = Random(1), Spread(median=100, sigma=1.0, min=20, max=500)
    values = sorted(draw(spread, rng) for _ in range(5000))
    assert values[0] == 20
    assert values[-1] == 500
    assert 90 < values[2500] < 110
