"""The gate that every generation passes: a slot at once, a place in the line, or a refusal.

Who gets what is decided in `serve.waiting` and, for keys, in `serve.limits`; here is what waits and
wakes up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serve.errors import TooManyRequests
from serve.limits import Account
from serve.shared import RUNNING, Counters
from serve.waiting import Policy, Waiter

POLL_S = 0.02
"""While someone waits: time-outs, slots that another worker freed, replicas that came back."""
BATCH_PRIORITY = 10
"""Of work that nobody sits in front of; interactive work has 0. vLLM's scale: lower runs first."""
BATCH_TIER = "flex"
"""OpenAI's name for slower, cheaper processing, as `service_tier`."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What decides on a request's place. `who` tells a client that comes back from a newcomer
    (`serve.pacing.Appointments`)."""

    priority: int = 0
    account: Account | None = None
    who: int = 0


def class_of(priority: int) -> str:
    """Interactive work, whose latency people feel, or batch."""
    return "batch" if priority >= BATCH_PRIORITY else "interactive"


def priority_of(asked: int | None, service_tier: str | None, best: int | None) -> int:
    """A request's priority by what it says itself; `best` is the best its key may have."""
    if asked is None:
        asked = BATCH_PRIORITY if service_tier == BATCH_TIER else best or 0
    return asked if best is None else max(asked, best)


class Gate:
    """Slots for `max_in_flight` generations over all workers, fewer where `replica_capacity` says
    so (None: it doesn't limit), and a line for those who must wait."""

    def __init__(
        self,
        max_in_flight: int,
        *,
        max_queued: int,
        queue_timeout_s: float,
        counters: Counters | None = None,
        replica_capacity: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def capacity() -> int:
            replicas = replica_capacity()
            return max_in_flight if replicas is None else min(max_in_flight, replicas)

        self._counters = Counters.alone() if counters is None else counters
        self._policy = Policy(
            self._counters, capacity, max_queued=max_queued, queue_timeout_s=queue_timeout_s
        )
        self._poll_timer: asyncio.TimerHandle | None = None
        self.clock = clock

    @property
    def num_in_flight(self) -> int:
        """Running generations of this worker."""
        return self._counters.own(RUNNING)

    @property
    def num_queued(self) -> int:
        """Those that wait at this worker."""
        return len(self._policy.line)

    def pressure(self, priority: int) -> float:
        """On newcomers with this priority: from 1 on no slot is free, at 2 they are refused."""
        return self._policy.pressure(priority, self.clock())

    def admit(self, claim: Claim) -> Admission:
        """`async with` it around the generation; entering raises `TooManyRequests`."""
        return Admission(self, claim)

    async def enter(self, claim: Claim) -> None:
        """Returns with a slot, for `leave` to give back. Cancelling it leaves nothing behind.
        Raises `TooManyRequests`."""
        waiter = self._policy.arrive(claim.priority, claim.who, self.clock())
        if waiter is not None:
            await self._wait(waiter)

    def leave(self) -> None:
        self._policy.leave(self.clock())

    def enter_at_once(self) -> bool:
        """A slot for one who runs already and could use another, if one is free and nobody waits;
        for `leave` to give back."""
        return self._policy.take_free(self.clock())

    async def _wait(self, waiter: Waiter) -> None:
        loop = asyncio.get_running_loop()
        waiter.future = loop.create_future()
        self._policy.dispatch(self.clock())
        if self._poll_timer is None:
            self._poll_timer = loop.call_later(POLL_S, self._poll, loop)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.admitted:
                self.leave()
            else:
                self._policy.remove(waiter)
            raise

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = self.clock()
        self._policy.dispatch(now_s)
        self._policy.expire(now_s)
        waits = bool(self._policy.line)
        self._poll_timer = loop.call_later(POLL_S, self._poll, loop) if waits else None


class Admission:
    """One request's way through the gate: `async with` holds its slot, or slots."""

    __slots__ = ("_gate", "_num_more", "claim", "queued_s", "waited_s")

    def __init__(self, gate: Gate, claim: Claim) -> None:
        self._gate = gate
        self.claim = claim
        self._num_more = 0
        self.waited_s: float | None = None
        """From the gate to a slot; None for one that got none."""
        self.queued_s = 0.0
        """The same, also of one that got none."""

    async def __aenter__(self) -> Self:
        account, began_s = self.claim.account, self._gate.clock()
        if account is not None:
            account.enter(began_s)
        try:
            await self._gate.enter(self.claim)
        except BaseException as exc:
            if account is not None:
                account.leave()
                if isinstance(exc, TooManyRequests):
                    account.refund()
            raise
        finally:
            self.queued_s = self._gate.clock() - began_s
        self.waited_s = self.queued_s
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for _ in range(1 + self._num_more):
            self._gate.leave()
        if self.claim.account is not None:
            self.claim.account.leave()

    def widen(self) -> bool:
        """One more slot, where one is free and nobody waits."""
        if not self._gate.enter_at_once():
            return False
        self._num_more += 1
        return True

    def narrow(self) -> None:
        """One slot less, of those that it took in addition."""
        self._num_more -= 1
        self._gate.leave()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What a keyed reply says of the key's limits."""
        account = self.claim.account
        return [] if account is None else account.headers(self._gate.clock())

    def charge(self, num_tokens: int) -> None:
        """What the request spent, against the key's tokens per minute."""
        if self.claim.account is not None:
            self.claim.account.charge(num_tokens)

    @property
    def key_name(self) -> str | None:
        return None if self.claim.account is None else self.claim.account.name
