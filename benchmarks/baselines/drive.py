"""The load: so many clients that ask one question after the other until a list of them is through.

Every contender gets the same questions with the same lengths. A reply is exactly as long as asked
(`ignore_eos`), so that all do equal work, and lengths differ by up to half, so that requests come
out of step with each other as they do in use: in step, all of a wave's requests would queue up in
the router before one step of the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random

import aiohttp

from benchmarks.baselines.gradio_api import GradioClient
from benchmarks.loadtest.client import Client, Endpoint, Window, step_clock
from benchmarks.loadtest.record import Record
from demo_model.problems import held_out_problems

SAMPLING: Mapping[str, object] = {"temperature": 0.6, "top_p": 0.95, "top_k": 50}
"""As in `guides_app`."""
_KINDS = ("addition", "word", "equation", "sequence")


@dataclass(frozen=True, slots=True)
class Question:
    """One request to come."""

    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Drive:
    """What came of the questions, in their order, and how long all of them took."""

    records: Sequence[Record]
    wall_s: float


Ask = Callable[[Question, Record], Awaitable[None]]


def questions(num: int, mean_tokens: int, seed: int = 7) -> list[Question]:
    """Held-out problems of the demo model, with lengths evenly from half to one and a half of the
    mean. The same for the same arguments, and their first ones for a smaller `num`."""
    rng = Random(seed)
    kinds = (held_out_problems(kind, 40, seed=seed) for kind in _KINDS)
    problems = cycle(problem for group in zip(*kinds, strict=True) for problem in group)
    return [
        Question(problem.question, round(rng.uniform(0.5, 1.5) * mean_tokens))
        for problem in islice(problems, num)
    ]


async def closed_loop(ask: Ask, asked: Sequence[Question], concurrency: int) -> list[Record]:
    """The records of `asked`, in order, with so many under way until the last have begun."""
    records = [Record("", 0.0) for _ in asked]
    left: Iterator[tuple[Question, Record]] = iter(zip(asked, records, strict=True))

    async def client() -> None:
        for question, record in left:
            await ask(question, record)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return records


def drive_chats(endpoint: Endpoint, asked: Sequence[Question], concurrency: int) -> Drive:
    """Asks an OpenAI-compatible endpoint, streaming."""

    async def run() -> Drive:
        window, client = Window(step_clock()), Client(endpoint)

        async def ask(question: Question, record: Record) -> None:
            record.due_at_s = window.clock()
            await client.chat(chat_body(question), record, window)

        try:
            records = await closed_loop(ask, asked, concurrency)
            return Drive(records, window.clock())
        finally:
            client.close()

    return asyncio.run(run())


def chat_body(question: Question) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.num_tokens,
        "ignore_eos": True,
        **SAMPLING,
    }


def drive_gradio(url: str, asked: Sequence[Question], concurrency: int) -> Drive:
    """Asks the app of the guides."""

    async def run() -> Drive:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            clock = step_clock()
            client = GradioClient(session, url, clock)

            async def ask(question: Question, record: Record) -> None:
                await client.ask(question.text, question.num_tokens, record)

            records = await closed_loop(ask, asked, concurrency)
            return Drive(records, clock())

    return asyncio.run(run())


def until_answered(drive: Callable[[Sequence[Question]], Drive], timeout_s: float = 60.0) -> None:
    """Returns when a short request was answered: some routers are up before their engine is known
    to them. Raises `RuntimeError` with the last error."""
    deadline = time.monotonic() + timeout_s
    while True:
        (record,) = drive([Question("What is 4 + 5?", 4)]).records
        if record.ok:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer: HTTP {record.status} {record.error}")
        time.sleep(0.3)
