"""The end of a router's life: new replies are refused, those under way finish or are cut short.

It knows what is under way; when to begin and how long to wait is `serve.server`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from serve.errors import ShuttingDown

RETRY_AFTER_S = 1.0
"""Another replica can take the request at once, and behind one port the next process soon."""


class Drain:
    """One per app, at `app.state.drain`."""

    def __init__(self) -> None:
        self.began = False
        self._closed = False
        self._expired = False
        self._replies: set[asyncio.Task[object]] = set()
        self._bodies: set[asyncio.Task[object]] = set()

    @property
    def replying(self) -> bool:
        """Whether a reply is under way."""
        return bool(self._replies)

    def begin(self) -> None:
        """From now on nothing new is taken but from those who couldn't know."""
        self.began = True

    def close(self) -> None:
        """From now on nothing new is taken at all."""
        self._closed = True

    def refuse(self, *, could_know: bool = True) -> None:
        """Raises `ShuttingDown` once the drain has begun, to one who couldn't know of it once it is
        closed."""
        if self.began and (could_know or self._closed):
            raise ShuttingDown(
                "the router is shutting down; send the request again, elsewhere or a little later",
                retry_after_s=RETRY_AFTER_S,
            )

    @contextlib.contextmanager
    def under_way(self, *, reply: bool) -> Iterator[None]:
        """Around work for a client, a reply or the reading of its request, which `expire` cancels:
        raises `ShuttingDown` in its place."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not inside a task")
        open_tasks = self._replies if reply else self._bodies
        open_tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._expired and task.uncancel() == 0:
                raise ShuttingDown(
                    "the router shut down before this reply was complete; send the request again",
                    retry_after_s=RETRY_AFTER_S,
                ) from None
            raise
        finally:
            open_tasks.discard(task)

    def expire(self) -> int:
        """Cuts short everything under way; how many replies that were."""
        self._closed = self._expired = True
        for task in (*self._replies, *self._bodies):
            task.cancel()
        return len(self._replies)
