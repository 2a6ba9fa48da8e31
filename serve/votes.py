"""A vote: several samples of one chat, of which the most frequent answer is the reply.

No more samples run at once than could decide it; one that thinks far longer than the others did is
not waited for, and given up on the engine once it is decided without it
(`docs/decisions/0012-several.md` has what that saves). Samples that fail don't count.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Callable

from serve.answer import AnswerForm, extract_answer
from serve.errors import InvalidRequest, ServeError
from serve.generation import Emit, Forget, Generation
from serve.legs import Legs
from serve.plan import Plan
from serve.replicas import ReplicaSet
from serve.several import Several, Slots
from serve.symbolic import SymbolicChecker
from serve.tally import Ballot, Tally, Votes
from serve.wire import EngineChoice

STRAGGLER = 2.0
"""Times the tokens of the median sample that came to its end."""
ALGEBRA_TIMEOUT_S = 5.0
"""For all comparisons that one sample brings: more than the answers' keys tell is a gain, not a
need."""


class Vote(Several):
    """Emits the winner's choices once there is one. `on_progress` is told how the vote stands after
    each sample."""

    def __init__(
        self,
        plan: Plan,
        replicas: ReplicaSet,
        request_id: str,
        slots: Slots,
        checker: SymbolicChecker,
        *,
        legs: Legs | None = None,
    ) -> None:
        votes = plan.votes or Votes(n=plan.num_choices)
        super().__init__(plan, replicas, request_id, slots, legs=legs, num_members=votes.n)
        self._form: AnswerForm = votes.answer_form or "none"
        self.tally = Tally(votes, self._form)
        self._checker = checker
        self._said: dict[Generation, list[EngineChoice]] = {}
        self._running: set[Generation] = set()
        self._lengths: list[int] = []
        self._winner: Generation | None = None
        self.on_progress: Callable[[dict[str, object]], None] = lambda report: None

    async def run(self, emit: Emit, forget: Forget | None = None) -> None:
        """As `Generation.run`; raises what the last sample raised where none came to its end."""
        failure: ServeError | None = None

        async def sample(member: Generation) -> None:
            said = self._said[member] = []
            self._running.add(member)
            await member.run(said.extend, lambda _: said.clear())

        async def ended(member: Generation, task: asyncio.Task[None]) -> bool:
            nonlocal failure
            self._running.discard(member)
            try:
                task.result()
            except InvalidRequest:
                raise  # so are the others
            except ServeError as exc:
                failure = exc
                self.tally.lose()
            else:
                await self._count(member)
            self.on_progress(self.tally.report())
            return self.tally.decided

        await self._run(sample, self._num_wanted, ended)
        winner = self.tally.winner
        if winner is None:
            raise failure or ServeError("no sample of the vote came to its end")
        self._winner = self.members[winner.voter]
        said = self._said[self._winner]
        for choice in said:
            choice.index = 0
        self._said.clear()
        emit(said)

    def _num_wanted(self) -> int:
        """At once: as many as could decide it, not counting stragglers."""
        if not self._lengths:
            return self.tally.num_needed
        most = STRAGGLER * statistics.median(self._lengths)
        num_stragglers = sum(member.num_tokens > most for member in self._running)
        return self.tally.num_needed + num_stragglers

    async def _count(self, member: Generation) -> None:
        self._lengths.append(member.num_tokens)
        content = "".join(choice.delta.content or "" for choice in self._said[member])
        self.tally.add(
            Ballot(
                self.members.index(member),
                extract_answer(content, self._form),
                member.usage.reasoning_tokens,
            )
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ALGEBRA_TIMEOUT_S):
                for a, b, latex_a, latex_b in self.tally.open_pairs():
                    if await self._checker.same(latex_a, latex_b):
                        self.tally.unite(a, b)

    @property
    def prompt_token_ids(self) -> list[int] | None:
        return self._winner.prompt_token_ids if self._winner else None

    def note(self, index: int | None = None) -> dict[str, object]:
        """The winner's, all failovers, and how the vote went."""
        note = self._winner.note() if self._winner else {}
        if self.num_failovers:
            note["failovers"] = self.num_failovers
        return note | {"votes": self.tally.report()}
