"""Engines are added and taken out while the router serves: over the stand-in for vLLM."""

from __future__ import annotations

import asyncio
import functools
import io
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serve.console import Console
from serve.control import Look, Scale, ask
from serve.engine import Machine
from serve.engine_keeper import EngineKeeper, make_keeper
from serve.fleet import Fleet, Rotation
from serve.running import find
from serve.settings import AutoscaleSettings, EngineSettings, SettingsError
from serve.supervise import StopSignals
from tests.stack import (
    CPU,
    FakeRouter,
    chatting,
    engine_pids,
    fake_settings,
    launched,
    num_served,
    running_stack,
    wait_until,
)
from tests.support import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.fleet.NOTICE_S", 0.1)
    monkeypatch.setattr("serve.scaling.INTERVAL_S", 0.1)


def test_scaling_under_load_fails_no_request(tmp_path: Path, fake_vllm_env: dict[str, str]) -> None:
    """1 → 3 → 1 by `r1-serve scale`, whole and streamed chats all the while, two router processes;
    `r1-serve status` shows it."""
    with running_stack(tmp_path, fake_vllm_env, 1) as stack:
        program = stack.program

        def status() -> list[dict[str, Any]]:
            return list(json.loads(stack.command("status", "--json").stdout))

        assert [it["state"] for it in status()] == ["ready"]
        with chatting(stack.url) as outcomes:
            scaled = stack.command("scale", "3")
            assert scaled.returncode == 0, scaled.stderr
            assert scaled.stdout.count("ready") == 3
            assert len(engine_pids(program)) == 3
            urls = {it["url"] for it in status()}
            assert len(urls) == 3
            assert wait_until(lambda: all(num_served(it) >= 5 for it in urls), 20)
            assert stack.command("scale", "1").returncode == 0
            enough = len(outcomes) + 20
            assert wait_until(lambda: len(outcomes) > enough, 20)
        assert set(outcomes) == {"ok"}, [it for it in outcomes if it != "ok"][:3]
        assert [it["index"] for it in status()] == [0]
        assert wait_until(lambda: len(engine_pids(program)) == 1, 10)
        assert stack.command("scale", "0").returncode == 2
        assert program.stop() == 0
        gone = stack.command("status")
        assert (gone.returncode, gone.stdout) == (1, "")
        assert "no running `r1-serve up`" in gone.stderr


async def test_an_engine_that_cannot_start_leaves_the_others(tmp_path: Path) -> None:
    """The answer says why; the number stays as it was."""
    router = FakeRouter()
    settings = fake_settings(tmp_path, port=8150)
    async with launched(settings, router) as task:
        await router.started.wait()
        control = find(tmp_path / "logs").control
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 8151)
        fleet = await ask(control, Scale(2))
        assert "Port 8151" in (fleet.error or "")
        assert [it.state for it in fleet.engines] == ["ready"]
        taken.close()
        fleet = await ask(control, Scale(2))
        assert (fleet.error, len(fleet.engines)) == (None, 2)
        await eventually(lambda: len(router.named()) == 2)
        router.finish.set()
        await asyncio.wait_for(task, 20)


async def test_an_engine_that_is_nowhere_yet_can_leave(tmp_path: Path) -> None:
    """As one that Ray has no room for, after its node was lost: it goes first, and at once."""

    class Nowhere(EngineKeeper):
        url = ""
        has_stopped = False

        async def stop(self) -> None:
            await super().stop()
            self.has_stopped = True

    made: list[EngineKeeper] = []

    def make(settings: EngineSettings, machine: Machine | None, index: int) -> EngineKeeper:
        it = make_keeper(lambda line: None, settings, machine, index)
        made.append(Nowhere(it.command, it.settings, it.log, index) if index else it)
        return made[-1]

    told = Console(io.StringIO())
    engine = fake_settings(tmp_path, num_replicas=2).engine
    fleet = Fleet(engine, CPU, make, Rotation(tmp_path / "engines"), told)
    await fleet.scale(1)
    await fleet.until_left()
    assert isinstance(made[1], Nowhere)
    assert made[1].has_stopped
    assert [keeper.index for keeper in fleet.keepers] == [0]
    await fleet.stop(StopSignals())


async def test_load_alone_adds_and_ends_engines(tmp_path: Path) -> None:
    """Many requests: three engines, which is the most; none for a while: one again, and those that
    run are not cut."""
    autoscale = AutoscaleSettings(
        max_replicas=3, target_requests_per_replica=2, scale_down_delay_s=0.5
    )
    settings = msgspec.structs.replace(fake_settings(tmp_path), autoscale=autoscale)
    router, told = FakeRouter(), io.StringIO()
    async with launched(settings, router, told=told) as task:
        await router.started.wait()
        (url,) = router.urls
        control = find(tmp_path / "logs").control
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            script = "script:" + json.dumps({"fault": {"kind": "stall", "after": 2}})
            body = {"model": "m", "messages": [{"role": "user", "content": script}]}
            calls = [
                asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(9)
            ]
            await eventually(lambda: len(router.named()) == 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: router.named() == [url])

        async def num_engines() -> int:
            return len((await ask(control, Look())).engines)

        assert await num_engines() == 1
        await eventually(lambda: told.getvalue().count("has ended") == 2)
        assert "Scaling from 1 to 3 engines: 9 requests" in told.getvalue()
        router.finish.set()
        await asyncio.wait_for(task, 20)


async def test_engines_that_cannot_be_made_change_nothing(tmp_path: Path) -> None:
    """The third has no GPU: the second isn't left behind unstarted."""
    gpus = Machine(device="gpu", vllm_version="0.32.0", visible_gpus="4,5")
    settings = fake_settings(tmp_path).engine
    make = functools.partial(make_keeper, lambda line: None)
    told = Console(io.StringIO())
    fleet = Fleet(settings, gpus, make, Rotation(tmp_path / "engines"), told)
    with pytest.raises(SettingsError, match="needs more GPUs than CUDA_VISIBLE_DEVICES=4,5"):
        await fleet.scale(3)
    assert [keeper.index for keeper in fleet.keepers] == [0]
    await fleet.stop(StopSignals())
