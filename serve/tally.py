"""Counting votes: when the outcome is decided, how many samples it still takes, who has won. Pure.

Counting stops as soon as no other answer can overtake the one that leads, though one may still draw
level with it: that an answer reached its votes first counts for as much as the rule for ties, and
four samples of eight are enough where they agree. Of equally frequent answers at the end the one
with the shortest trace wins (long traces of small models more often went astray), and of the
samples that gave the winning answer the one with the shortest trace is the reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve.answer import AnswerForm
from serve.equivalence import group, is_open, normalise

MAX_VOTES = 64


class Votes(msgspec.Struct, frozen=True, kw_only=True):
    """How a vote goes. `majority`: the most frequent of `n` answers. `first_k`: the first answer
    that `k` samples agree on, of `n` at most; the most frequent where none is."""

    n: Annotated[int, Meta(ge=1, le=MAX_VOTES)]
    strategy: Literal["majority", "first_k"] = "majority"
    k: Annotated[int, Meta(ge=1, le=MAX_VOTES)] = 2
    answer_form: AnswerForm | None = None
    """Where the answer stands; None: as the preset says."""


class Ballot(msgspec.Struct, frozen=True):
    """What one sample came to."""

    voter: int
    """The sample's number."""
    answer: str | None
    """None: no answer was found in it."""
    num_thinking_tokens: int


class Tally:
    def __init__(self, votes: Votes, form: AnswerForm) -> None:
        self._votes = votes
        self._form = form
        self._num_lost = 0
        self._equal: set[tuple[str, str]] = set()
        self._asked: set[tuple[str, str]] = set()
        self._groups: list[list[Ballot]] = []
        self.ballots: list[Ballot] = []
        """In order of arrival."""

    # ---- what comes in ----

    def add(self, ballot: Ballot) -> None:
        self.ballots.append(ballot)
        self._regroup()

    def lose(self) -> None:
        """A sample failed."""
        self._num_lost += 1

    def open_pairs(self) -> Iterator[tuple[str, str, str, str]]:
        """Pairs of answers that differ as far as is known, and that algebra may find equal: both
        answers, and both in LaTeX. None comes twice."""
        firsts = [found[0].answer or "" for found in self._groups]
        for a, b in combinations(firsts, 2):
            if (a, b) in self._asked:
                continue
            self._asked.add((a, b))
            one, other = normalise(a, self._form), normalise(b, self._form)
            if self._form == "boxed" and is_open(one, other):
                yield a, b, one.latex, other.latex

    def unite(self, a: str, b: str) -> None:
        """Two answers are the same after all."""
        self._equal.add((a, b))
        self._regroup()

    def _regroup(self) -> None:
        valid = [ballot for ballot in self.ballots if ballot.answer is not None]
        answers = [ballot.answer or "" for ballot in valid]
        numbers = group(answers, self._form)
        for a, b in self._equal:
            if a in answers and b in answers:
                one, other = numbers[answers.index(a)], numbers[answers.index(b)]
                numbers = [one if number == other else number for number in numbers]
        groups: dict[int, list[Ballot]] = {}
        for number, ballot in zip(numbers, valid, strict=True):
            groups.setdefault(number, []).append(ballot)
        self._groups = sorted(
            groups.values(),
            key=lambda found: (-len(found), min(it.num_thinking_tokens for it in found)),
        )

    # ---- what it comes to ----

    @property
    def num_left(self) -> int:
        """Samples whose outcome isn't known yet."""
        return self._votes.n - len(self.ballots) - self._num_lost

    @property
    def num_needed(self) -> int:
        """The least number of further samples that could decide it; 0 once it is decided."""
        most, second = self._num_leading
        if self._votes.strategy == "first_k":
            needed = self._votes.k - most
        else:
            needed = (second - most + self.num_left + 1) // 2
        return max(0, min(needed, self.num_left))

    @property
    def decided(self) -> bool:
        return self.num_needed == 0

    @property
    def _num_leading(self) -> tuple[int, int]:
        """Votes of the first and the second answer."""
        first, second, *_ = (*map(len, self._groups), 0, 0)
        return first, second

    @property
    def winner(self) -> Ballot | None:
        """The sample to reply with: of the winning answer, or of all where none has one."""
        best = self._groups[0] if self._groups else self.ballots
        return min(best, key=lambda ballot: ballot.num_thinking_tokens, default=None)

    @property
    def share(self) -> float:
        """The winner's, of all samples counted."""
        return len(self._groups[0]) / len(self.ballots) if self._groups else 0.0

    def report(self) -> dict[str, object]:
        """What the reply tells of it."""
        answers = [{"answer": _commonest(found), "count": len(found)} for found in self._groups]
        return {
            "strategy": self._votes.strategy,
            "n": self._votes.n,
            "counted": len(self.ballots),
            "share": round(self.share, 4),
            "answers": answers,
        }


def _commonest(ballots: list[Ballot]) -> str | None:
    """The form in which most gave the answer, the earliest of several."""
    forms = [ballot.answer for ballot in ballots]
    return max(forms, key=forms.count)
