"""Many fresh problems at once through the router to real vLLM: their form, and the accuracy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo_model.problem import Problem
from demo_model.problems import held_out_problems
from demo_model.scoring import is_right, read_choice
from tests.conftest import RunningEngine
from tests.support import running_router

pytestmark = pytest.mark.engine

CARD = Path(__file__).parents[2] / "demo_model" / "results.json"
KINDS = ("addition", "subtraction", "word", "sequence", "equation")
NUM_PROBLEMS, CONCURRENCY = 500, 64
MAX_SECOND_TAGS = 2
"""The demo model ends about 1 trace in 4,000 twice; the second tag is text of the answer then."""


async def test_five_hundred_problems_at_sixty_four(engine: RunningEngine) -> None:
    """Every reply is well-formed, no trace leaks, accuracy is the card's (within 3 points)."""
    problems = [
        problem
        for kind in KINDS
        for problem in held_out_problems(kind, NUM_PROBLEMS // len(KINDS), seed=20261122)
    ]
    limit = asyncio.Semaphore(CONCURRENCY)
    tagged = []
    async with running_router(engine.url) as router:

        async def solve(problem: Problem, stream: bool) -> bool:
            async with limit:
                body = {"temperature": 0.6, "top_p": 0.95, "stream": stream}
                response = await router.chat(problem.question, **body)
            choice = whole_choice(response) if stream else response.json()["choices"][0]
            check_form(choice)
            if "think>" in choice["message"]["content"]:
                tagged.append(choice["message"])
            return is_right(problem, read_choice(choice))

        right = await asyncio.gather(*(solve(p, i % 2 == 0) for i, p in enumerate(problems)))
    assert len(tagged) <= MAX_SECOND_TAGS, tagged
    accuracy = 100 * sum(right) / len(right)
    expected = card_accuracy()
    assert abs(accuracy - expected) <= 3, f"{accuracy:.1f} % here, {expected:.1f} % on the card"


def whole_choice(response: httpx.Response) -> dict[str, Any]:
    """A streamed reply put together as a whole one."""
    message = {"content": "", "reasoning_content": ""}
    finish_reason = None
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    for line in lines[:-1]:
        choice = json.loads(line)["choices"][0]
        message["content"] += choice["delta"].get("content") or ""
        message["reasoning_content"] += choice["delta"].get("reasoning_content") or ""
        finish_reason = choice["finish_reason"] or finish_reason
    return {"message": message, "finish_reason": finish_reason}


def check_form(choice: dict[str, Any]) -> None:
    message = choice["message"]
    assert choice["finish_reason"] == "stop"
    assert message["content"]
    assert "think>" not in (message["reasoning_content"] or "")
    assert message["content"] == message["content"].strip()


def card_accuracy() -> float:
    """The model card's held-out accuracy at temperature 0.6 over the kinds, in percent."""
    results = json.loads(CARD.read_text())
    scores = [results["suites"][kind]["accuracy"] for kind in KINDS]
    return 100 * sum(scores) / len(scores)
