"""Waiting for a thread without holding up the event loop."""

from __future__ import annotations

import asyncio
import threading
import time

_POLL_S = 0.01


async def joined(thread: threading.Thread, timeout_s: float) -> bool:
    """Whether it has ended, within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while thread.is_alive() and time.monotonic() < deadline_s:  # noqa: ASYNC110  (it sets no event)
        await asyncio.sleep(_POLL_S)
    return not thread.is_alive()
