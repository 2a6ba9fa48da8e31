from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import RunningEngine
from tests.support import running_router


@pytest.fixture
async def demo(engine: RunningEngine) -> AsyncIterator[str]:
    """The API over real vLLM with the demo model."""
    async with running_router(engine.url) as router:
        yield f"{router.url}/v1"
