"""The least that Ray Serve can do for a stream: replicas that sleep and yield ready-made events.

Run by an environment that has `ray[serve]` (`benchmarks.ray_bench` makes it):

    python ray_serve_app.py PORT NUM_REPLICAS NUM_SLOTS STEP_MS NUM_TOKENS
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

PREFILL_S = 0.005
EVENT = b'data: {"choices":[{"index":0,"delta":{"reasoning":" carry"}}]}\n\n'


class Replica:
    def __init__(self, num_slots: int, step_s: float, num_tokens: int) -> None:
        self._slots = asyncio.Semaphore(num_slots)
        self._step_s = step_s
        self._num_tokens = num_tokens

    async def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            return Response(b"{}")
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[bytes]:
        async with self._slots:
            await asyncio.sleep(PREFILL_S)
            for _ in range(self._num_tokens):
                await asyncio.sleep(self._step_s)
                yield EVENT
        yield b"data: [DONE]\n\n"


def main(port: str, num_replicas: str, num_slots: str, step_ms: str, num_tokens: str) -> None:
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    deployment: Any = serve.deployment(Replica).options(
        num_replicas=int(num_replicas),
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0.5},
    )
    serve.run(deployment.bind(int(num_slots), float(step_ms) / 1000, int(num_tokens)))
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
