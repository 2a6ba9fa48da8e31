"""The generator: right arithmetic, a hold-out that never leaks, the same problems every time."""

import re
from itertools import pairwise
from random import Random

import pytest

from demo_model.answers import extract_boxed
from demo_model.arithmetic import (
    compact_difference,
    compact_sum,
    full_difference,
    full_sum,
)
from demo_model.problem import Problem
from demo_model.problems import KINDS, held_out_problems, training_problem
from demo_model.sums import chain

CLAIM = re.compile(r"(?<![\w+\-×÷.])(\d+(?:[+\-×÷]\d+)+)=(-?\d+)")


def value(expression: str) -> int:
    """Evaluate digits joined by + - × ÷, with × and ÷ binding first, exactly."""
    total = 0
    for sign, term in re.findall(r"([+-]?)(\d+(?:[×÷]\d+)*)", expression):
        first, *rest = re.findall(r"[×÷]?\d+", term)
        product = int(first)
        for factor in rest:
            number = int(factor[1:])
            if factor[0] == "×":
                product *= number
            else:
                assert product % number == 0, expression
                product //= number
        total += -product if sign == "-" else product
    return total


def wrong_claims(text: str) -> list[str]:
    return [f"{e}={r}" for e, r in CLAIM.findall(text) if value(e) != int(r)]


def exact_problems(kind: str, n: int) -> list[Problem]:
    rng = Random(f"test:{kind}")
    if kind == "chain":
        return [chain(rng, "en" if i % 2 else "zh", slip_rate=0.0) for i in range(n)]
    return [KINDS[kind][0](rng, "en" if i % 2 else "zh") for i in range(n)]


def test_checker_sees_wrong_arithmetic() -> None:
    assert wrong_claims("7+5=12, 13-8-1=5\n27÷9=3") == ["13-8-1=5"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_equality_in_a_trace_holds(kind: str) -> None:
    for problem in exact_problems(kind, 600):
        assert wrong_claims(problem.completion) == [], problem


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "talk"])
def test_the_box_holds_the_answer_and_the_trace_reaches_it(kind: str) -> None:
    for problem in exact_problems(kind, 300):
        assert extract_boxed(problem.reply) == problem.answer
        results = re.findall(r"-?\d+", problem.trace.splitlines()[-1].replace("÷", "="))
        assert results[-1].lstrip("-") == str(problem.answer).lstrip("-"), problem


@pytest.mark.parametrize("kind", ["addition", "subtraction", "chain"])
def test_the_answer_is_what_the_question_asks(kind: str) -> None:
    for problem in exact_problems(kind, 400):
        found = re.search(r"\d+(?: ?[+-] ?\d+)+", problem.question)
        if found:
            assert str(value(found[0].replace(" ", ""))) == problem.answer, problem


def test_equations_are_solved_by_their_answer() -> None:
    for problem in exact_problems("equation", 400):
        found = re.search(r"[\da-z]+(?: ?[+-] ?[\da-z]+)? ?= ?\d+", problem.question)
        assert found, problem
        left, right = found[0].replace(" ", "").split("=")
        left = re.sub(r"(\d)[a-z]", rf"\1×{problem.answer}", left)
        left = re.sub(r"[a-z]", str(problem.answer), left)
        assert value(left) == int(right), problem


def test_columns_agree_with_arithmetic_over_the_taught_range() -> None:
    rng = Random(0)
    for _ in range(2000):
        a, b = rng.randrange(10_000), rng.randrange(10_000)
        high, low = max(a, b), min(a, b)
        for text in (
            full_sum(a, b, "en"),
            full_difference(a, b, "zh"),
            compact_sum(a, b, "en"),
            compact_difference(high, low, "zh"),
        ):
            assert wrong_claims(text) == []
        assert compact_sum(a, b, "en").endswith(f"{a + b}")
        assert compact_difference(high, low, "zh").endswith(f"{high - low}")


def test_training_never_meets_a_held_out_problem() -> None:
    rng = Random("leak")
    trained = {training_problem(rng).key for _ in range(20_000)}
    held_out = {p.key for k in KINDS if k not in ("talk", "times")
                for p in held_out_problems(k, 300, seed=5)}  # fmt: skip
    assert not trained & held_out


def test_one_digit_facts_are_all_taught() -> None:
    rng = Random("facts")
    keys = {training_problem(rng, {k: float(k == "addition") for k in KINDS}).key
            for _ in range(40_000)}  # fmt: skip
    assert {("sum", a, b) for a in range(10) for b in range(a, 10)} <= keys


def test_the_same_seed_gives_the_same_problems() -> None:
    assert held_out_problems("word", 20, 3) == held_out_problems("word", 20, 3)
    assert held_out_problems("word", 20, 3) != held_out_problems("word", 20, 4)
    first, second = Random("s"), Random("s")
    assert [training_problem(first) for _ in range(50)] == [
        training_problem(second) for _ in range(50)
    ]


def test_slips_make_a_chain_wrong_but_consistent() -> None:
    rng = Random(1)
    slipped = [p for p in (chain(rng, "en", slip_rate=0.3) for _ in range(100))
               if wrong_claims(p.trace)]  # fmt: skip
    assert slipped
    for problem in slipped:
        steps = [re.split(r"[+\-=]", line) for line in problem.trace.splitlines()]
        assert all(a[2] == b[0] for a, b in pairwise(steps))
        assert steps[-1][2] == problem.answer


def test_the_chinese_fibonacci_question_is_a_training_phrasing() -> None:
    rng = Random(0)
    asked = "一个数列前两项是 1 和 1，每一项等于前两项之和，第 10 项是多少？"
    shares = {kind: float(kind == "sequence") for kind in KINDS}
    problems = (training_problem(rng, shares) for _ in range(3_000_000))
    problem = next(p for p in problems if p.question == asked)
    assert problem.answer == "55"
    assert "第10项：21+34：1+4=5，2+3=5，得55" in problem.trace
