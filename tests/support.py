"""What tests of the running router share: a router over given engines, waiting for conditions."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from serve.router import build_app
from serve.server import run
from serve.settings import (
    BrownoutSettings,
    RouterSettings,
    ServerSettings,
    Settings,
    TelemetrySettings,
)
from serve.state import Router
from serve.worker import ALONE, Worker


class RunningRouter:
    """A router on a free port of this event loop."""

    def __init__(
        self, url: str, router: Router, http: httpx.AsyncClient, drain: Callable[[], object]
    ) -> None:
        self.url = url
        self.drain = drain
        self.router = router
        self.http = http

    async def chat(self, text: str = "hello", **fields: Any) -> httpx.Response:
        messages = fields.pop("messages", [{"role": "user", "content": text}])
        return await self.http.post("/v1/chat/completions", json={"messages": messages, **fields})

    async def stream(self, text: str = "hello", **fields: Any) -> list[dict[str, Any] | str]:
        """The events of a streamed chat: decoded chunks, and `[DONE]` as it is."""
        response = await self.chat(text, stream=True, **fields)
        assert response.headers["content-type"].startswith("text/event-stream"), response.text
        lines = [line for line in response.text.split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [
            line[6:] if line == "data: [DONE]" else msgspec.json.decode(line[6:]) for line in lines
        ]


@contextlib.asynccontextmanager
async def running_router(
    *engine_urls: str,
    server: ServerSettings | None = None,
    brownout: BrownoutSettings | None = None,
    telemetry: TelemetrySettings | None = None,
    worker: Worker = ALONE,
    wait_ready: bool = True,
    headers: dict[str, str] | None = None,
    **router: Any,
) -> AsyncIterator[RunningRouter]:
    """A router over `engine_urls`, ready unless told not to wait; drained at the end."""
    settings = Settings(
        server=server or ServerSettings(port=0, drain_timeout_s=5),
        router=RouterSettings(engine_urls=list(engine_urls), probe_interval_s=0.05, **router),
        brownout=brownout or BrownoutSettings(),
        telemetry=telemetry or TelemetrySettings(),
    )
    app = build_app(settings, worker)
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(app, settings.server, on_started=started.set_result))
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    url = started.result()
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers) as http:
            running = RunningRouter(url, app.state.router, http, task.cancel)
            if wait_ready:
                await eventually(lambda: len(running.router.replicas.ready) == len(engine_urls))
            yield running
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def program(*names: str, package: str) -> str:
    """The path of the first of `names` that there is. Without one the test that asks is skipped,
    or fails in CI."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        remedy = f"{names[0]} is not on the PATH; `apt-get install {package}` brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return path


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], within_s: float = 20.0
) -> None:
    """Returns once `condition`, or what it gives to await, is true; fails the test when that
    doesn't come in time."""
    deadline = time.monotonic() + within_s
    while True:
        held = condition()
        if await held if inspect.isawaitable(held) else held:
            return
        assert time.monotonic() < deadline, "the condition didn't come true in time"
        await asyncio.sleep(0.01)


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether all of them have ended, reaped or not."""
    return not any(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # reaped in between
        return False
