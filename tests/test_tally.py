"""Counting votes: the early outcome is the late one, ties, what is needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.equivalence import same_answer
from serve.tally import Ballot, Tally, Votes

ANSWERS = st.sampled_from(["1", "1.0", "2", "1/2", "0.5", "x", None])
SAMPLES = st.lists(st.tuples(ANSWERS, st.integers(0, 50)), min_size=1, max_size=12)


def counted(samples: list[tuple[str | None, int]], n: int | None = None, **votes: Any) -> Tally:
    tally = Tally(Votes(n=n or len(samples), **votes), "boxed")
    for i, (answer, num_tokens) in enumerate(samples):
        tally.add(Ballot(i, answer, num_tokens))
    return tally


def groups_of(tally: Tally) -> list[int]:
    return [answer["count"] for answer in tally.report()["answers"]]  # type: ignore[attr-defined]


@given(SAMPLES)
def test_an_early_decision_is_not_overtaken(samples: list[tuple[str | None, int]]) -> None:
    """Whenever counting may stop, the answer that leads is among the most frequent in the end."""
    final = counted(samples)
    for num in range(1, len(samples)):
        early = counted(samples[:num], len(samples))
        if early.decided and early.winner is not None:
            chosen = early.winner.answer
            votes = [a["count"] for a in final.report()["answers"] if same(a["answer"], chosen)]  # type: ignore[attr-defined]
            assert votes == [max(groups_of(final), default=0)] or chosen is None


def same(a: str | None, b: str | None) -> bool:
    return a is not None and b is not None and same_answer(a, b, "boxed")


@given(SAMPLES)
def test_what_is_needed_is_the_least_that_can_decide(
    samples: list[tuple[str | None, int]],
) -> None:
    """So many more votes for the leading answer decide it, one less doesn't."""
    n = len(samples) + 8
    tally = counted(samples, n)
    needed = tally.num_needed
    leading = tally.winner.answer if tally.winner else None
    if leading is None:
        return
    assert counted([*samples, *[(leading, 0)] * needed], n).decided
    if needed > 0:
        assert not counted([*samples, *[(leading, 0)] * (needed - 1)], n).decided


@given(SAMPLES)
def test_all_samples_decide(samples: list[tuple[str | None, int]]) -> None:
    tally = counted(samples)
    assert tally.decided
    assert tally.num_left == 0
    assert sum(groups_of(tally)) == sum(answer is not None for answer, _ in samples)


def test_eight_votes_begin_with_four() -> None:
    """Four that agree can't be outvoted by four."""
    tally = Tally(Votes(n=8), "boxed")
    assert tally.num_needed == 4
    assert counted([("7", 1)] * 4, 8).decided
    assert not counted([("7", 1)] * 3, 8).decided
    assert counted([("7", 1)] * 3 + [("8", 1)], 8).num_needed == 1
    assert counted([("7", 1)] * 4 + [("8", 1)], 8).decided


def test_a_tie_goes_to_the_shortest_trace() -> None:
    tally = counted([("a", 30), ("b", 20), ("b", 40), ("a", 25)])
    assert tally.winner == Ballot(1, "b", 20)
    assert groups_of(tally) == [2, 2]


def test_samples_without_an_answer_take_no_side() -> None:
    """They count as spent; where there are no others, the one with the shortest trace is sent."""
    tally = counted([(None, 5), ("4", 9), (None, 1)])
    assert tally.winner == Ballot(1, "4", 9)
    assert tally.report()["share"] == pytest.approx(0.3333)
    assert counted([(None, 5), (None, 1)]).winner == Ballot(1, None, 1)


def test_lost_samples_are_not_waited_for() -> None:
    tally = counted([("4", 9)], 4)
    assert tally.num_needed == 1
    tally.lose()
    tally.lose()
    assert tally.decided
    assert tally.winner == Ballot(0, "4", 9)
    assert Tally(Votes(n=1), "boxed").winner is None


def test_the_first_k_that_agree_win() -> None:
    votes: dict[str, Any] = {"strategy": "first_k", "k": 2}
    tally = Tally(Votes(n=8, **votes), "boxed")
    assert tally.num_needed == 2
    assert not counted([("1", 1), ("2", 1), ("3", 1)], 8, **votes).decided
    tally = counted([("1", 1), ("2", 1), ("1.0", 1)], 8, **votes)
    assert tally.decided
    assert tally.winner == Ballot(0, "1", 1)


def test_algebra_may_unite_answers() -> None:
    """Each open pair is asked about once; prose isn't."""
    tally = counted([("(x+1)^2", 3), ("x^2+2x+1", 3), ("0", 3), ("a word", 1), ("7", 1)])
    pairs = [(a, b) for a, b, _, _ in tally.open_pairs()]
    assert {frozenset(pair) for pair in pairs} >= {frozenset(("(x+1)^2", "x^2+2x+1"))}
    assert all("a word" not in pair for pair in pairs)
    assert not list(tally.open_pairs())
    tally.unite("(x+1)^2", "x^2+2x+1")
    assert groups_of(tally) == [2, 1, 1, 1]
    tally.add(Ballot(9, "(x+1)^2", 3))
    assert groups_of(tally)[0] == 3
