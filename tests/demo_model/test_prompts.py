"""Prompts: the template's exact text, and variety that is a function of the seed."""

from random import Random

from demo_model.prompts import conversation, render, training_example

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": "1+1=2\n</think>\n\nTwo."},
    {"role": "user", "content": "2+2"},
]


def test_render_is_the_r1_distill_template() -> None:
    assert render(MESSAGES) == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1<｜Assistant｜>\n\nTwo.<｜end▁of▁sentence｜>"
        "<｜User｜>2+2<｜Assistant｜><think>\n"
    )


def test_conversations_end_with_the_question() -> None:
    rng = Random(0)
    for _ in range(200):
        messages = conversation(rng, "WHAT")
        assert messages[-1]["role"] == "user"
        assert "what" in messages[-1]["content"].lower()


def test_examples_are_a_function_of_the_seed() -> None:
    assert training_example(Random("a")) == training_example(Random("a"))
    assert training_example(Random("a")) != training_example(Random("b"))
