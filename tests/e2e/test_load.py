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
from serve.reasoning import CLOSE_TAG
from tests.conftest import RunningEngine
from tests.support import running_router

pytestmark = pytest.mark.engine

CARD = Path(__file__).parents[2] / "demo_model" / "results.json"
KINDS = ("addition", "subtraction", "word", "sequence", "equation")
NUM_PROBLEMS, CONCURRENCY = 500, 64


async def test_five_hundred_problems_at_sixty_four(engine: RunningEngine) -> None:
    """Every reply is well-formed, no trace leaks, accuracy is the card's (within 3 points)."""
    problems = [
        problem
        for kind in KINDS
        for problem in held_out_problems(kind, NUM_PROBLEMS // len(KINDS), seed=20261122)
    ]
    limit = asyncio.Semaphore(CONCURRENCY)
    close_id = await id_of_close_tag(engine)
    async with running_router(engine.url) as router:

        async def solve(problem: Problem, stream: bool) -> bool:
            async with limit:
                body = {"temperature": 0.6, "top_p": 0.95, "return_token_ids": True}
                response = await router.chat(problem.question, stream=stream, **body)
            choice = whole_choice(response) if stream else response.json()["choices"][0]
            check_form(choice, close_id)
            return is_right(problem, read_choice(choice))

        right = await asyncio.gather(*(solve(p, i % 2 == 0) for i, p in enumerate(problems)))
    accuracy = 100 * sum(right) / len(right)
    expected = card_accuracy()
    assert abs(accuracy - expected) <= 3, f"{accuracy:.1f} % here, {expected:.1f} % on the card"


async def id_of_close_tag(engine: RunningEngine) -> int:
    body = {"model": engine.model, "prompt": CLOSE_TAG, "add_special_tokens": False}
    async with httpx.AsyncClient(base_url=engine.url) as http:
        (close_id,) = (await http.post("/tokenize", json=body)).json()["tokens"]
    return int(close_id)


def whole_choice(response: httpx.Response) -> dict[str, Any]:
    """A streamed reply put together as a whole one."""
    message = {"content": "", "reasoning_content": ""}
    finish_reason, token_ids = None, []
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    for choice in (it for line in lines[:-1] for it in json.loads(line)["choices"]):
        token_ids += choice.get("token_ids") or []
        message["content"] += choice["delta"].get("content") or ""
        message["reasoning_content"] += choice["delta"].get("reasoning_content") or ""
        finish_reason = choice["finish_reason"] or finish_reason
    return {"message": message, "finish_reason": finish_reason, "token_ids": token_ids}


def check_form(choice: dict[str, Any], close_id: int) -> None:
    """The model ends a trace twice now and then; that tag, and no other, is text of the answer."""
    message, num_tags = choice["message"], choice["token_ids"].count(close_id)
    assert choice["finish_reason"] == "stop"
    assert message["content"]
    assert num_tags >= 1
    assert "think>" not in (message["reasoning_content"] or "")
    assert message["content"].count("think>") == num_tags - 1
    assert message["content"] == message["content"].strip()


def card_accuracy() -> float:
    """The model card's held-out accuracy at temperature 0.6 over the kinds, in percent."""
    results = json.loads(CARD.read_text())
    scores = [results["suites"][kind]["accuracy"] for kind in KINDS]
    return 100 * sum(scores) / len(scores)
