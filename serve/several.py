"""Several generations for one request, in the slots that there are: the choices of `n` > 1.

A request has one slot; it takes more only while some are free and nobody waits, so that one request
for many choices keeps no other out: the rest of its choices run one after the other. Each is a
generation of its own, so that each is continued, recovered and given up by itself, and the engine's
prefix cache makes the prompt cheap (`docs/decisions/0012-several.md`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

import msgspec

from serve.generation import Emit, Forget, Generation
from serve.legs import Legs
from serve.plan import Plan
from serve.replicas import ReplicaSet
from serve.usage import Phases, Usage

_SEEDS = 1 << 64
_LOOK_S = 0.25


class Slots(Protocol):
    """The slots of a request, which has one to begin with."""

    def widen(self) -> bool:
        """One more, where it is to be had at once."""

    def narrow(self) -> None:
        """One less."""


class Several:
    """To its user as `serve.generation.Generation`; what it emits carries the choice's index."""

    def __init__(
        self,
        plan: Plan,
        replicas: ReplicaSet,
        request_id: str,
        slots: Slots,
        *,
        legs: Legs | None = None,
        num_members: int | None = None,
    ) -> None:
        self._slots = slots
        self._num_slots = 1
        self.members = [
            Generation(_member_plan(plan, i), replicas, f"{request_id}-{i}", index=i, legs=legs)
            for i in range(plan.num_choices if num_members is None else num_members)
        ]

    async def run(self, emit: Emit, forget: Forget | None = None) -> None:
        """As `Generation.run`; what one of them raises ends the others."""

        async def ended(member: Generation, task: asyncio.Task[None]) -> bool:
            task.result()
            return False

        await self._run(lambda member: member.run(emit, forget), lambda: len(self.members), ended)

    async def _run(
        self,
        start: Callable[[Generation], Coroutine[None, None, None]],
        num_wanted: Callable[[], int],
        ended: Callable[[Generation, asyncio.Task[None]], Awaitable[bool]],
    ) -> None:
        """Starts members in turn, as many as `num_wanted()` at once and as slots allow, which is
        looked at again now and then, and tells `ended` of each. Returns when it says so, or when
        none runs and none is left; those that run then are cancelled."""
        waiting = iter(self.members)
        running: dict[asyncio.Task[None], Generation] = {}
        try:
            while True:
                while len(running) < num_wanted() and self._has_slot(len(running)):
                    member = next(waiting, None)
                    if member is None:
                        break
                    running[asyncio.create_task(start(member))] = member
                while self._num_slots > max(1, len(running)):
                    self._num_slots -= 1
                    self._slots.narrow()
                if not running:
                    return
                done, _ = await asyncio.wait(
                    running, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if await ended(running.pop(task), task):
                        return
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _has_slot(self, num_running: int) -> bool:
        if num_running >= self._num_slots and self._slots.widen():
            self._num_slots += 1
        return num_running < self._num_slots

    @property
    def usage(self) -> Usage:
        """Of all together; they share one prompt."""
        used = [member.usage for member in self.members]
        first = max(used, key=lambda usage: usage.prompt_tokens)
        return Usage(
            prompt_tokens=first.prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in used),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in used),
            cached_tokens=first.cached_tokens,
        )

    @property
    def phases(self) -> list[Phases]:
        return [phases for member in self.members for phases in member.phases]

    @property
    def prompt_token_ids(self) -> list[int] | None:
        return next((ids for member in self.members if (ids := member.prompt_token_ids)), None)

    @property
    def num_failovers(self) -> int:
        return sum(member.num_failovers for member in self.members)

    def note(self, index: int | None = None) -> dict[str, object]:
        """What `r1` tells of one choice, or of all where no choice is named: a list where they can
        differ."""
        if index is not None:
            return self.members[index].note()
        notes = [member.note() for member in self.members]
        together: dict[str, object] = {}
        if self.num_failovers:
            together["failovers"] = self.num_failovers
        if any("seed_kept" in note for note in notes):
            together["seed_kept"] = False
        if any("recovered" in note for note in notes):
            together["recovered"] = [note.get("recovered") for note in notes]
        return together

    def pause(self) -> None:
        for member in self.members:
            member.pause()

    def resume(self) -> None:
        for member in self.members:
            member.resume()

    def close(self) -> None:
        for member in self.members:
            member.close()


def _member_plan(plan: Plan, index: int) -> Plan:
    """The seed of each choice is vLLM's own for it (`vllm/v1/engine/parallel_sampling.py`). Nothing
    of a vote's samples streams."""
    if plan.votes is not None:
        plan = msgspec.structs.replace(plan, stream=False)
    seed = plan.body.get("seed")
    if not isinstance(seed, int):
        return plan
    seed = (seed + index + _SEEDS // 2) % _SEEDS - _SEEDS // 2
    return msgspec.structs.replace(plan, body=plan.body | {"seed": seed})
