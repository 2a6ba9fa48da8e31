"""Two real vLLM engines as Ray actors; one is killed while both generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Program
from tests.e2e.test_failover import a_kill_costs_no_stream, the_busier, two_engines, url_of

pytestmark = pytest.mark.engine


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Program]:
    yield from two_engines(tmp_path, 'backend = "ray"\n')


async def test_a_killed_engine_and_its_actor_cost_no_stream(stack: Program) -> None:
    """`kill -9` of both, as when a node is lost. (An engine whose actor alone is killed still has
    some seconds to finish what it runs.) Both get work, before and after."""
    async with httpx.AsyncClient(base_url=url_of(stack), timeout=120) as http:

        async def kill() -> None:
            server = await the_busier(http, stack)
            (actor,) = [
                it for it in server.parents() if it.cmdline()[0].startswith("ray::EngineActor")
            ]
            server.kill()
            actor.kill()

        await a_kill_costs_no_stream(http, stack, kill)
