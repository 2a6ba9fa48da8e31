"""A storm of disconnects over processes of their own: every generation ends, nothing stays counted.

On the stand-in here; on real vLLM with `-m engine`. The router is the command, so its loop is the
one it has in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import RunningEngine
from tests.faults.support import chat_body, connect, request_bytes, router_over, stand_in_process
from tests.support import eventually

NUM_STREAMS = 2000
AT_ONCE = 200
"""Streams open at a time: two cores carry the clients, the router and the engine."""
WITHIN_S = 10.0
"""Enough for a slow machine; how long it was is printed."""


@pytest.fixture
def stand_in() -> Iterator[str]:
    options = ("--step-ms", "50", "--think-tokens", "100", "--max-num-seqs", "128")
    with stand_in_process(*options) as url:
        yield url


async def storm(url: str, num_streams: int, longest_s: float, **fields: Any) -> int:
    """Opens streams, cuts each at a random moment; returns how many had begun to flow."""
    chance, num_begun = random.Random(7), 0
    slots = asyncio.Semaphore(AT_ONCE)

    async def client(number: int) -> None:
        nonlocal num_begun
        async with slots:
            reader, writer = await connect(url)
            body = chat_body(f"{number} + {number}?", stream=number % 5 > 0, **fields)
            writer.write(request_bytes(body))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * longest_s):
                    while part := await reader.read(65536):
                        num_begun += b"HTTP/1.1 200" in part
            writer.transport.abort()

    await asyncio.gather(*(client(number) for number in range(num_streams)))
    return num_begun


async def calm(readings: Callable[[], Awaitable[dict[str, float]]]) -> float:
    """Seconds until all readings are 0. Fails after `WITHIN_S`."""
    started_s = time.monotonic()
    while any((last := await readings()).values()):
        assert time.monotonic() - started_s < WITHIN_S, last
        await asyncio.sleep(0.02)
    return time.monotonic() - started_s


async def gauge(http: httpx.AsyncClient, url: str, *names: str) -> float:
    """The sum of the named metrics, over all their labels."""
    text = (await http.get(f"{url}/metrics")).text
    pattern = rf"^(?:{'|'.join(names)})(?:{{.*}})? (\S+)$"
    return sum(float(value) for value in re.findall(pattern, text, re.M))


async def test_two_thousand_streams_cut_at_random_moments(stand_in: str) -> None:
    """The engine's running count and the router's gauge are 0 soon after the last cut, and the
    router has no more files open than before."""
    with router_over(stand_in) as (url, process):
        async with httpx.AsyncClient(timeout=30) as http:

            async def readings() -> dict[str, float]:
                state = (await http.get(f"{stand_in}/stand_in/state")).json()
                return {
                    "running": state["running"],
                    "waiting": state["waiting"],
                    "router": await gauge(http, url, "r1_in_flight"),
                }

            await calm(readings)
            num_fds = process.num_fds()
            num_begun = await storm(url, NUM_STREAMS, 1.2)
            assert num_begun > NUM_STREAMS / 10, "the storm was to hit flowing streams too"
            print(f"calm after {await calm(readings):.2f} s")
            assert (await http.get(f"{url}/ready")).status_code == 200
            state = (await http.get(f"{stand_in}/stand_in/state")).json()
            await eventually(lambda: process.num_fds() <= num_fds + state["connections"] + 1)


@pytest.mark.engine
async def test_real_vllm_is_free_of_every_cut_stream(engine: RunningEngine) -> None:
    """`vllm:num_requests_running` and `…_waiting` are 0 soon after the last cut."""
    with router_over(engine.url) as (url, _):
        async with httpx.AsyncClient(timeout=30) as http:

            async def readings() -> dict[str, float]:
                names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
                return {
                    "engine": await gauge(http, engine.url, *names),
                    "router": await gauge(http, url, "r1_in_flight"),
                }

            num_begun = 0
            for _ in range(5):  # a slow machine begins fewer of them
                num_begun += await storm(url, NUM_STREAMS, 3.0, max_tokens=2000, ignore_eos=True)
                if num_begun > NUM_STREAMS / 10:
                    break
            assert num_begun > NUM_STREAMS / 10
            print(f"{num_begun} had begun; calm after {await calm(readings):.2f} s")
            reply = await http.post(
                f"{url}/v1/chat/completions", json=chat_body("hi", max_tokens=4)
            )
            assert reply.status_code == 200
