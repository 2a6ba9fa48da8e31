"""One question to a server, shown as it is answered, until its answer is complete or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Coroutine, Iterator

from serve.supervise import end
from serve.terminal.client import ChatError, Client
from serve.terminal.reply import Piece, Reply
from serve.terminal.screen import Screen
from serve.terminal.view import View

TICK_S = 0.3


class Asker:
    def __init__(self, client: Client, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        self._running: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Meanwhile Ctrl-C ends a reply, and nothing else."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _interrupt(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def ask(self, body: bytes, *, shows_thinking: bool) -> Reply:
        """What came in reply, complete or not; the screen says which."""
        reply = Reply(time.monotonic())
        view = View(self._screen, reply, shows_thinking=shows_thinking)
        try:
            complete = await self._stoppable(self._answered(body, reply, view))
        except ChatError as exc:
            view.failed(str(exc))
        else:
            reply.ended_s = time.monotonic()
            (view.complete if complete else view.stopped)()
        return reply

    async def _stoppable(self, work: Coroutine[None, None, None]) -> bool:
        """Whether it came to its end before Ctrl-C."""
        task = self._running = asyncio.create_task(work)
        try:
            await asyncio.wait({task})
        finally:
            self._running = None
            await end(task)
        if task.cancelled():
            return False
        task.result()
        return True

    async def _answered(self, body: bytes, reply: Reply, view: View) -> None:
        async def put_off(why: ChatError, wait_s: float) -> None:
            view.put_off(str(why), time.monotonic() + wait_s)
            await asyncio.sleep(wait_s)
            view.tried_again()

        def show(pieces: list[Piece]) -> None:
            view.show(pieces, time.monotonic())

        ticking = asyncio.create_task(_tick(view))
        try:
            await self._client.chat_when_told(body, reply, show, put_off)
        finally:
            await end(ticking)


async def _tick(view: View) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        view.tick(time.monotonic())
