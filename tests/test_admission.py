"""The gate in a running loop: waiting, waking, cancelling."""

from __future__ import annotations

import asyncio
import random

import pytest

from serve.admission import BATCH_PRIORITY, Claim, Gate, priority_of
from serve.errors import TooManyRequests
from serve.limits import Account, Limits
from serve.shared import Counters
from tests.support import eventually


def make(max_in_flight: int = 1, max_queued: int = 10, queue_timeout_s: float = 10.0) -> Gate:
    return Gate(max_in_flight, max_queued=max_queued, queue_timeout_s=queue_timeout_s)


async def hold(gate: Gate, claim: Claim, until: asyncio.Event) -> None:
    async with gate.admit(claim):
        await until.wait()


async def test_a_free_slot_is_had_without_waiting() -> None:
    """Entering doesn't suspend: no future, no task, no timer."""
    gate = make(2)
    entering = gate.admit(Claim()).__aenter__()
    with pytest.raises(StopIteration):
        entering.send(None)
    assert gate.num_in_flight == 1
    gate.leave()
    assert gate.num_in_flight == 0


async def test_a_freed_slot_goes_to_the_first_in_the_line_and_to_no_one_else() -> None:
    gate, order = make(), []
    ends = [asyncio.Event() for _ in range(5)]

    async def run(number: int, priority: int) -> None:
        async with gate.admit(Claim(priority)):
            order.append(number)
            assert gate.num_in_flight == 1
            await ends[number].wait()

    tasks = [asyncio.create_task(run(n, p)) for n, p in enumerate((0, 10, 0, 10, -1))]
    await eventually(lambda: gate.num_queued == 4)
    for number in (0, 4, 2, 1, 3):
        await eventually(lambda number=number: order[-1:] == [number])
        assert len(order) + gate.num_queued == 5
        ends[number].set()
    await asyncio.gather(*tasks)
    assert gate.num_in_flight == gate.num_queued == 0


async def test_who_leaves_the_line_leaves_nothing_behind() -> None:
    gate, end = make(), asyncio.Event()
    first = asyncio.create_task(hold(gate, Claim(), end))
    waiting = [asyncio.create_task(hold(gate, Claim(), end)) for _ in range(3)]
    await eventually(lambda: gate.num_queued == 3)
    waiting[0].cancel()
    waiting[2].cancel()
    await eventually(lambda: gate.num_queued == 1)
    end.set()
    await asyncio.gather(first, waiting[1])
    assert gate.num_in_flight == gate.num_queued == 0


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_slot_given_to_one_who_is_being_cancelled_goes_on(cancel_first: bool) -> None:
    """Freeing and cancelling in one turn of the loop, in both orders: no lost wake-up."""
    gate, end = make(), asyncio.Event()
    await gate.enter(Claim())
    second = asyncio.create_task(hold(gate, Claim(), end))
    third = asyncio.create_task(hold(gate, Claim(), end))
    await eventually(lambda: gate.num_queued == 2)
    if cancel_first:
        second.cancel()
        gate.leave()
    else:
        gate.leave()
        second.cancel()
    await eventually(lambda: gate.num_queued == 0 and gate.num_in_flight == 1)
    assert second.cancelled()
    end.set()
    await third
    assert gate.num_in_flight == 0


async def test_many_who_come_wait_and_go_at_random_leave_nothing() -> None:
    """Three hundred, a third of them cancelled at some moment; never more than four at once."""
    chance, gate, most = random.Random(3), make(4, max_queued=400), 0

    async def run() -> None:
        nonlocal most
        async with gate.admit(Claim(chance.choice((0, 10)))):
            most = max(most, gate.num_in_flight)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(run()))
        if chance.random() < 0.33:
            chance.choice(tasks).cancel()
        if chance.random() < 0.2:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.num_in_flight == gate.num_queued == 0
    assert most == 4


async def test_waiting_ends_at_the_deadline() -> None:
    """429 with a reason and a time to come back."""
    gate = make(queue_timeout_s=0.05)
    gate.clock = lambda: 0.0
    async with gate.admit(Claim()):
        waiting = asyncio.create_task(gate.enter(Claim()))
        await asyncio.sleep(0)
        gate.clock = lambda: 0.06
        with pytest.raises(TooManyRequests) as refused:
            await waiting
    assert refused.value.reason == "queue_timeout"
    assert refused.value.headers()["retry-after"] == "2"
    assert gate.num_in_flight == gate.num_queued == 0


async def test_a_capacity_that_grows_is_noticed_by_who_waits() -> None:
    """A replica that comes back brings slots though nothing ends."""
    replicas: int | None = 1
    gate = Gate(8, max_queued=9, queue_timeout_s=10, replica_capacity=lambda: replicas)
    end = asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, Claim(), end)) for _ in range(3)]
    await eventually(lambda: (gate.num_in_flight, gate.num_queued) == (1, 2))
    replicas = None
    await eventually(lambda: gate.num_in_flight == 3)
    end.set()
    await asyncio.gather(*tasks)


async def test_a_key_pays_for_what_was_served_only() -> None:
    """A refusal by the full server gives the request back; its place in the account is freed."""
    gate = make(max_queued=0)
    account = Account("a", Limits(max_in_flight=2, requests_per_minute=2), Counters.alone(), 0.0)
    async with gate.admit(Claim()):
        for _ in range(5):
            with pytest.raises(TooManyRequests, match="as many as this server"):
                await gate.admit(Claim(account=account)).__aenter__()
    async with gate.admit(Claim(account=account)) as admission:
        assert (b"x-ratelimit-remaining-requests", b"1") in admission.headers()


@pytest.mark.parametrize(
    ("asked", "tier", "best", "priority"),
    [
        (None, None, None, 0),
        (None, "flex", None, BATCH_PRIORITY),
        (-5, None, None, -5),
        (-5, None, 0, 0),
        (3, "flex", 0, 3),
        (None, "flex", 0, BATCH_PRIORITY),
        (None, "priority", BATCH_PRIORITY, BATCH_PRIORITY),
        (0, None, BATCH_PRIORITY, BATCH_PRIORITY),
        (20, None, BATCH_PRIORITY, 20),
    ],
)
def test_a_priority_is_never_better_than_the_key_allows(
    asked: int | None, tier: str | None, best: int | None, priority: int
) -> None:
    assert priority_of(asked, tier, best) == priority
