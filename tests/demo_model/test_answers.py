"""Reading answers out of replies."""

import pytest

from demo_model.answers import extract_boxed, split_reply
from demo_model.problems import held_out_problems
from demo_model.scoring import Sample, majority, read_choice, score


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b{c}}d}", "a{b{c}}d"),
        (r"\boxed{7} and an open \boxed{8", "7"),
        (r"\boxed{}", ""),
        ("nothing", None),
        (r"\boxed{", None),
    ],
)
def test_extract_boxed_takes_the_last_complete_box(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


def test_split_reply_needs_a_closing_tag() -> None:
    assert split_reply("a\n</think>\n\nb") == ("a", "b")
    assert split_reply("<think>\na") == ("a", None)


def test_choices_read_the_same_raw_or_split() -> None:
    raw = {"message": {"content": "t\n</think>\n\nc"}, "finish_reason": "stop"}
    split = {"message": {"content": "c", "reasoning": "t"}, "finish_reason": "stop"}
    assert read_choice(raw) == read_choice(split) == Sample("t", "c", "stop")


def test_majority_mends_scattered_errors() -> None:
    problem = held_out_problems("addition", 1, 0)[0]
    right = Sample("", rf"\boxed{{{problem.answer}}}", "stop")
    wrong = [Sample("", rf"\boxed{{w{i}}}", "stop") for i in range(3)]
    samples = [wrong[0], right, wrong[1], right, wrong[2]]
    assert majority(samples) == problem.answer
    result = score([problem], [samples])
    assert (result.accuracy, result.majority, result.scatter) == (0.4, 1.0, 1.0)
