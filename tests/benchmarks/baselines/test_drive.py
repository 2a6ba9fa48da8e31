from __future__ import annotations

import asyncio

from benchmarks.baselines import guides_app
from benchmarks.baselines.contenders import MODELS, NAMES, merged
from benchmarks.baselines.drive import SAMPLING, Question, chat_body, closed_loop, questions
from benchmarks.loadtest.record import Record


def test_fewer_questions_are_the_first_of_more() -> None:
    """So the guides' way, which gets fewer, is asked the same."""
    many = questions(200, 64)
    assert questions(16, 64) == many[:16]
    assert len(many) == 200
    lengths = [question.num_tokens for question in many]
    assert min(lengths) >= 32
    assert max(lengths) <= 96
    assert abs(sum(lengths) / len(lengths) - 64) < 5


def test_a_client_asks_again_when_it_has_its_answer() -> None:
    """No more than `concurrency` at a time; records stay in the questions' order."""
    under_way, most = 0, 0

    async def ask(question: Question, record: Record) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(question.num_tokens % 3):
            await asyncio.sleep(0)
        record.output_tokens = question.num_tokens
        under_way -= 1

    asked = [Question("?", number) for number in range(20)]
    records = asyncio.run(closed_loop(ask, asked, 4))
    assert [record.output_tokens for record in records] == list(range(20))
    assert most == 4


def test_all_sample_alike_and_to_the_full_length() -> None:
    body = chat_body(Question("1 + 1?", 7))
    assert (body["max_tokens"], body["ignore_eos"]) == (7, True)
    assert {"do_sample": True, **SAMPLING} == guides_app.SAMPLING
    assert body.items() >= SAMPLING.items()


def test_a_models_contenders_exist() -> None:
    for model in MODELS.values():
        assert set(model.contenders.split(",")) <= set(NAMES)


def test_engine_settings_replace_those_of_the_same_key() -> None:
    lines = ['dtype = "auto"', "cpu_threads = 2"]
    assert merged(lines, ["cpu_threads = 1", "enforce_eager = true"]) == [
        'dtype = "auto"',
        "cpu_threads = 1",
        "enforce_eager = true",
    ]
    assert merged(lines, ["cpu_threads ="]) == ['dtype = "auto"']
