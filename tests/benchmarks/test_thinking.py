"""The thinking benchmark's arithmetic: offline majorities, its problems, its table and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.thinking import Settings, chains, offline, plot, render


def reply(*answers: str) -> dict[str, Any]:
    choices = [{"message": {"content": f"\\boxed{{{answer}}}"}} for answer in answers]
    return {"choices": choices}


def test_the_offline_majority_counts_the_first_n() -> None:
    """A tie goes to the shorter sample; a majority that comes later doesn't count."""
    (problem,) = chains(Settings(problems=1))
    right = problem.answer or ""
    said = reply("x", right, right)
    assert not offline(problem, said, [1, 9, 9], 1)
    assert offline(problem, said, [9, 1, 9], 2)
    assert not offline(problem, said, [1, 9, 9], 2)
    assert offline(problem, said, [1, 9, 9], 3)


def test_the_problems_are_held_out_and_the_same_each_time() -> None:
    problems = chains(Settings(problems=12))
    assert all(problem.held_out for problem in problems)
    assert problems == chains(Settings(problems=12))
    assert len({problem.question for problem in problems}) == 12


RESULTS: list[dict[str, Any]] = [
    {
        "experiment": "votes",
        "rows": [
            {"how": "one sample", "accuracy": 0.5, "tokens": 10.0},
            {"how": "votes: 8", "accuracy": 0.75, "tokens": 50.0, "counted": 5.0},
        ],
    },
    {
        "experiment": "recovery",
        "rows": [
            {"max_tokens": 16, "recover": recover, "answered": 1.0, "accuracy": 0.5}
            for recover in (True, False)
        ],
    },
    {"experiment": "loops", "rows": [{"breaker": True, "unanswered": 0}]},
]


def test_results_become_a_table_and_pictures(tmp_path: Path) -> None:
    """A row without a figure has a dash; loops are a table only."""
    assert render(RESULTS[0]).splitlines()[2].split()[-1] == "-"
    plot(RESULTS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recovery.svg", "votes.svg"]
