"""A load of requests of known sizes on a real endpoint; `benchmarks.planner.replay` simulates it.

A prompt is so many random digits, a token each to the demo model, so that no prefix is found in the
cache; `ignore_eos` keeps the reply at its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.loadtest.client import Client, Endpoint, Window, step_clock
from benchmarks.loadtest.record import Record
from benchmarks.planner.samples import Sample, Size


class DriveError(RuntimeError):
    """A request failed; with known requests on an engine of one's own none may."""


@dataclass(frozen=True, slots=True)
class Target:
    """`template_tokens`: what the chat template adds to a prompt's digits. Other prompts with each
    `salt`."""

    endpoint: Endpoint
    template_tokens: int = 0
    salt: int = 0

    def body(self, size: Size, number: int) -> dict[str, object]:
        digits = "".join(
            Random(f"{self.salt}/{number}").choices("123456789", k=self.num_digits(size))
        )
        return {
            "messages": [{"role": "user", "content": digits}],
            "max_tokens": size.output_tokens,
            "ignore_eos": True,
            "temperature": 0.6,
            "top_p": 0.95,
        }

    def num_digits(self, size: Size) -> int:
        return max(1, size.prompt_tokens - self.template_tokens)


async def find_template(endpoint: Endpoint) -> Target:
    """Asks once, to learn what the template adds."""
    client = Client(endpoint)
    try:
        asked = Size(100, 2)
        record = await _ask(client, Target(endpoint), asked, 0, Window(step_clock()))
    finally:
        client.close()
    return Target(endpoint, record.prompt_tokens - asked.prompt_tokens)


async def closed(
    target: Target, sizes: Sequence[Size], num_clients: int, seconds: float
) -> list[Sample]:
    """See `replay.closed`."""
    client, window, samples = Client(target.endpoint), Window(step_clock()), list[Sample]()

    async def user(number: int) -> None:
        while window.clock() < seconds:
            size = sizes[number % len(sizes)]
            record = await _ask(client, target, size, number, window)
            samples.append(_sample(size, record))
            number += num_clients

    try:
        await asyncio.gather(*map(user, range(num_clients)))
    finally:
        client.close()
    return samples


async def open_loop(
    target: Target, sizes: Sequence[Size], times_s: Sequence[float]
) -> list[Sample]:
    """See `replay.open_loop`."""
    client, window = Client(target.endpoint), Window(step_clock())

    async def visit(number: int, at_s: float) -> Sample:
        await asyncio.sleep(max(0.0, at_s - window.clock()))
        size = sizes[number % len(sizes)]
        return _sample(size, await _ask(client, target, size, number, window, at_s))

    try:
        return await asyncio.gather(*(visit(*pair) for pair in enumerate(times_s)))
    finally:
        client.close()


async def _ask(
    client: Client,
    target: Target,
    size: Size,
    number: int,
    window: Window,
    due_s: float | None = None,
) -> Record:
    record = Record("planner", window.clock() if due_s is None else due_s)
    await client.chat(target.body(size, number), record, window)
    if not record.ok or record.output_tokens != size.output_tokens:
        raise DriveError(
            f"asked for {size.output_tokens} tokens, got {record.output_tokens}: "
            f"status {record.status} {record.error}"
        )
    return record


def _sample(size: Size, record: Record) -> Sample:
    ended_s = record.ended_at_s or 0.0
    first_s = ended_s if record.first_at_s is None else record.first_at_s
    return Sample(size, record.due_at_s, first_s, ended_s)
