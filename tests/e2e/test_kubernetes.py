"""What k8s/overlays/gpu renders, run: the routers' command as it stands, over engines that come and
go as pods do (`tests.cluster`).

Times are kept in proportion: a fiftieth of the manifests', of the name server's and of the pause
between two look-ups of the engines' name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serve.key_commands import add_key
from serve.keys import Key, new_key
from tests.cluster.cluster import Cluster, Deployment
from tests.cluster.network import (
    GATEWAY,
    SERVICE_ADDRESS,
    connect_outside,
    forwarding,
    in_cluster,
    need_namespaces,
)
from tests.cluster.pod import Json
from tests.conftest import RunningEngine
from tests.k8s.manifests import render
from tests.support import eventually

HASTE = 50.0
CHAT = "/v1/chat/completions"
NOWHERE = [f"10.244.0.{host}" for host in range(200, 240)]
"""Addresses without a pod, more than an answer by UDP has room for."""


@pytest.fixture
def key(tmp_path: Path) -> str:
    """Known to the routers."""
    key, key_id, digest = new_key()
    add_key(tmp_path / "keys.toml", "test", Key(id=key_id, hash=digest, created="now"))
    return key


@pytest.fixture
def cluster(key: str, tmp_path: Path) -> Cluster:
    """The manifests and the Secret that docs/kubernetes.md has people make; still without pods."""
    need_namespaces()
    secrets = {"r1-serve-keys": {"keys.toml": (tmp_path / "keys.toml").read_bytes()}}
    return Cluster(render("gpu"), tmp_path, HASTE, secrets)


def stand_in(container: Json, haste: float) -> list[str]:
    """In place of vLLM, with what the manifest tells it."""
    told = dict(itertools.pairwise(container["args"]))
    return [
        *(sys.executable, "-m", "benchmarks.stand_in", "--step-ms", "5"),
        *("--host", told["--host"], "--port", told["--port"]),
        *("--model", told["--served-model-name"]),
        *("--shutdown-timeout-s", str(float(told["--shutdown-timeout"]) / haste)),
    ]


class Load:
    """Clients that chat one after the other, every second reply streamed. Half of them keep their
    connections."""

    def __init__(self, key: str) -> None:
        self.num_whole = 0
        self.texts: set[str] = set()
        self.failures: list[str] = []
        self._headers = {"authorization": f"Bearer {key}"}

    @contextlib.asynccontextmanager
    async def on(self, url: str, num_clients: int = 8) -> AsyncIterator[None]:
        stop = asyncio.Event()
        clients = [asyncio.create_task(self._client(url, at, stop)) for at in range(num_clients)]
        try:
            yield
            stop.set()
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()

    async def _client(self, url: str, at: int, stop: asyncio.Event) -> None:
        keeps = httpx.Limits(max_keepalive_connections=at % 2)
        async with httpx.AsyncClient(
            base_url=url, headers=self._headers, limits=keeps, timeout=30
        ) as http:
            for number in itertools.count(at // 2):
                if stop.is_set():
                    return
                try:
                    text = await chat(http, f"{at}, {number}", stream=number % 2 == 0)
                except (httpx.HTTPError, ValueError, KeyError) as exc:
                    self.failures.append(repr(exc))
                else:
                    self.texts.add(text)
                    self.num_whole += 1


async def chat(http: httpx.AsyncClient, text: str, *, stream: bool, **fields: Any) -> str:
    """The thinking and the answer. Raises `ValueError` where the reply is no whole one."""
    body = {"messages": [{"role": "user", "content": text}], "stream": stream, **fields}
    reply = await http.post(CHAT, json=body)
    if reply.status_code != 200:
        raise ValueError(f"{reply.status_code} {reply.text}")
    if not stream:
        message = reply.json()["choices"][0]["message"]
        return str(message["reasoning"]) + str(message["content"])
    *events, done = [line[6:] for line in reply.text.split("\n\n") if line]
    if done != "[DONE]":
        raise ValueError(f"cut off after {done}")
    deltas = [it["delta"] for event in events for it in json.loads(event)["choices"]]
    return "".join(it.get("reasoning") or "" for it in deltas) + "".join(
        it.get("content") or "" for it in deltas
    )


async def seen_by(router: str, key: str) -> list[Json]:
    """The replicas that a router knows, in rotation or not."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
        return list((await http.get(f"{router}/replicas")).json()["data"])


async def knows(router: str, key: str, num_replicas: int) -> bool:
    return len(await seen_by(router, key)) == num_replicas


async def agree(router: str, engines: Deployment, key: str) -> None:
    """Returns when the router's replicas are the engines' pods, all of them in rotation."""

    pods = sorted((pod.url, True) for pod in engines.pods)

    async def same() -> bool:
        return sorted((it["url"], it["ready"]) for it in await seen_by(router, key)) == pods

    await eventually(same)


def test_the_router_follows_the_engines(cluster: Cluster, key: str) -> None:
    """Scaled up and down, listed among dead addresses, killed, replaced, the name server failing
    meanwhile: no request fails, no reply is cut, and the router's replicas become the pods."""
    load = Load(key)
    engines = Deployment(cluster, "r1-engine", stand_in)
    routers = Deployment(cluster, "r1-router")

    async def scenario() -> None:
        async with cluster.running():
            await asyncio.gather(engines.scale(2), routers.scale(1))
            (router,) = routers.pods
            async with load.on(router.url):
                for num_replicas in (4, 2):
                    await engines.scale(num_replicas)
                    await agree(router.url, engines, key)

                cluster.others["r1-engines"] = NOWHERE
                cluster.changed()
                await eventually(lambda: knows(router.url, key, len(NOWHERE) + 2))
                del cluster.others["r1-engines"]
                cluster.changed()
                await agree(router.url, engines, key)

                cluster.dns.fails = True
                killed = engines.pods[0]
                killed.kill()
                await eventually(lambda: len(killed.statuses) == 1 and killed.ready)
                await agree(router.url, engines, key)

                rolling = asyncio.create_task(engines.roll())
                await eventually(lambda: len(engines.ended) == 3)
                cluster.dns.fails = False
                await rolling
                await agree(router.url, engines, key)
            await routers.scale(0)

    in_cluster(scenario)
    assert load.failures == []
    assert cluster.dns.num_by_tcp
    assert len(load.texts) == 1, "every reply is the same text, wherever it was begun and ended"
    assert [it.statuses for it in engines.ended] == [[0], [0], [-9, 0], [0]]
    ended = [*engines.ended, *routers.ended]
    assert not any(it.outlasted_its_grace for it in ended)


def test_replaced_routers_lose_no_request(cluster: Cluster, key: str) -> None:
    """Behind the one address of their Service, one after the other; each ends with status 0."""
    load = Load(key)
    routers = Deployment(cluster, "r1-router")

    async def scenario() -> None:
        async with (
            cluster.running(),
            forwarding(SERVICE_ADDRESS, 80, cluster.connect_to_router) as url,
        ):
            await asyncio.gather(
                Deployment(cluster, "r1-engine", stand_in).scale(1), routers.scale(2)
            )
            async with load.on(url):
                await routers.roll()

    in_cluster(scenario)
    assert load.failures == []
    assert len(load.texts) == 1
    assert [it.statuses for it in routers.ended] == [[0], [0]]
    assert not any(it.outlasted_its_grace for it in routers.ended)


@pytest.mark.engine
def test_the_routers_command_over_real_vllm(
    cluster: Cluster, key: str, engine: RunningEngine
) -> None:
    """Argv, environment, mounted settings and keys, user and file system as rendered: it is ready,
    asks for the key, answers whole and streamed, and ends with status 0."""
    address = urlsplit(engine.url)
    to_engine = functools.partial(connect_outside, address.hostname or "", address.port or 0)
    cluster.others["r1-engines"] = [GATEWAY]
    routers = Deployment(cluster, "r1-router")

    async def scenario() -> None:
        async with cluster.running(), forwarding(GATEWAY, 8000, to_engine):
            await routers.scale(1)
            (router,) = routers.pods
            async with httpx.AsyncClient(base_url=router.url, timeout=120) as http:
                assert (await http.get("/ready")).status_code == 200
                assert (await http.post(CHAT, json={})).status_code == 401
                http.headers["authorization"] = f"Bearer {key}"
                question = {"text": "What is 47 + 85?", "temperature": 0, "preset": "math"}
                whole = await chat(http, stream=False, **question)
                assert "\\boxed{132}" in whole
                assert await chat(http, stream=True, **question) == whole
            await routers.scale(0)

    in_cluster(scenario)
    (router,) = routers.ended
    assert router.statuses == [0]
    assert not router.outlasted_its_grace
