"""Scales the fleet as `serve.autoscale` says, by what the engines and the router tell."""

from __future__ import annotations

import asyncio
import re
import time

from serve.autoscale import Autoscaler, Demand
from serve.console import Console
from serve.engine_faults import EngineStartError
from serve.engine_process import get, read_load
from serve.fleet import Fleet
from serve.settings import AutoscaleSettings, SettingsError
from serve.supervise import Backoff, end

INTERVAL_S = 5.0


class Scaling:
    def __init__(self, fleet: Fleet, settings: AutoscaleSettings, console: Console) -> None:
        self._fleet = fleet
        self._settings = settings
        self._console = console
        self._task: asyncio.Task[None] | None = None

    def start(self, router_url: str) -> None:
        """From now on, until `close`, where the settings ask for it."""
        if self._settings.max_replicas is not None:
            self._task = asyncio.create_task(self._follow(router_url))

    async def close(self) -> None:
        await end(self._task)

    async def _follow(self, router_url: str) -> None:
        scaler, backoff = Autoscaler(self._settings), Backoff()
        while True:
            await asyncio.sleep(INTERVAL_S)
            demand = await self._look(router_url)
            num_now = len(self._fleet.keepers)
            num_wanted = scaler.num_replicas(time.monotonic(), demand, num_now)
            if num_wanted == num_now:
                continue
            self._console.line(
                f"Scaling from {num_now} to {num_wanted} engines: {demand.num_requests} requests."
            )
            began_at = time.monotonic()
            try:
                await self._fleet.scale(num_wanted)
            except (EngineStartError, SettingsError) as exc:
                self._console.line(f"Not scaled: {exc}")
                await asyncio.sleep(backoff.delay_s(time.monotonic() - began_at))

    async def _look(self, router_url: str) -> Demand:
        keepers = [keeper for keeper in self._fleet.keepers if keeper.ready]
        loads = await asyncio.gather(*(read_load(keeper.url) for keeper in keepers))
        told = [load for load in loads if load is not None]
        return Demand(told, await read_queue_depth(router_url))


async def read_queue_depth(router_url: str) -> int:
    """Requests that wait in the router for a slot; 0 where it doesn't tell."""
    metrics = await get(router_url, "/metrics") or b""
    found = re.search(rb"^r1_queue_depth (\S+)$", metrics, re.M)
    return round(float(found[1])) if found else 0
