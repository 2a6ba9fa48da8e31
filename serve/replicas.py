"""The set of engine replicas: which are ready, how busy each is, and the choice of one.

A replica is ready once it answers `/health` and has told what it serves (`EngineInfo`); a failed
connection takes it out at once and the next good probe brings it back. A lease counts a request
as in flight until its stream ends, on every path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from serve.connection import ConnectFailed, Reply
from serve.errors import NotReady, UpstreamError
from serve.reasoning import CLOSE_TAG, OPEN_TAG, TraceFormat
from serve.settings import RouterSettings
from serve.upstream import EngineClient, refusal

log = logging.getLogger(__name__)

PROBE_MESSAGES = [{"role": "user", "content": "1+1"}]
NOT_READY_RETRY_S = 5.0


class EngineInfo(msgspec.Struct, frozen=True):
    """What one engine serves, asked of it once per start."""

    model: str
    max_model_len: int
    trace: TraceFormat
    has_thinking_budget: bool


class Replica:
    """One engine, as the router sees it."""

    def __init__(self, url: str, client: EngineClient) -> None:
        self.url = url
        self.client = client
        self.info: EngineInfo | None = None
        self.healthy = False
        self.num_in_flight = 0
        self.last_error = "not probed yet"

    @property
    def ready(self) -> bool:
        return self.healthy and self.info is not None

    def down(self, error: Exception) -> None:
        """Out of rotation until a probe succeeds; what it serves is asked anew then."""
        if self.healthy:
            log.warning("replica %s is out of rotation: %s", self.url, error)
        self.healthy = False
        self.info = None
        self.last_error = str(error)

    async def probe(self) -> None:
        """One look at the engine; updates `healthy` and `info`, never raises for its faults."""
        try:
            await _expect_ok(self.client, "/health")
            if self.info is None:
                self.info = await describe(self.client)
                log.info("replica %s is ready: %s", self.url, self.info)
            self.healthy = True
            self.last_error = ""
        except (UpstreamError, msgspec.DecodeError) as exc:
            self.down(exc)

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1


class ReplicaSet:
    """All replicas; probing starts and ends with `running()`."""

    def __init__(self, settings: RouterSettings) -> None:
        self._probe_interval_s = settings.probe_interval_s
        self.replicas = [
            Replica(
                url,
                EngineClient(
                    url,
                    connect_timeout_s=settings.connect_timeout_s,
                    idle_timeout_s=settings.idle_timeout_s,
                ),
            )
            for url in settings.engine_urls
        ]

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.ready]

    def models(self) -> dict[str, EngineInfo]:
        """Served name → what serves it, over the ready replicas."""
        return {info.model: info for replica in self.ready if (info := replica.info)}

    def choose(self, model: str) -> tuple[Replica, EngineInfo]:
        """The least busy ready replica of `model`. Raises `NotReady` with a Retry-After."""
        candidates = [
            (replica, info)
            for replica in self.ready
            if (info := replica.info) is not None and info.model == model
        ]
        if not candidates:
            raise self.not_ready()
        return min(candidates, key=lambda candidate: candidate[0].num_in_flight)

    async def open(
        self,
        model: str,
        path: str,
        body_for: Callable[[EngineInfo], bytes],
        resources: contextlib.ExitStack,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Reply, EngineInfo]:
        """Posts to the least busy replica of `model`; `resources` then hold the lease and the open
        reply. A replica that can't be reached is put out of rotation and the next one is tried.

        Raises `ServeError`, also where the engine refuses; nothing is left running then.
        """
        while True:
            replica, info = self.choose(model)
            with contextlib.ExitStack() as attempt:
                attempt.enter_context(replica.lease())
                try:
                    reply = await replica.client.request("POST", path, body_for(info), headers)
                except ConnectFailed as exc:
                    replica.down(exc)
                    continue
                attempt.callback(reply.close)
                if reply.status != 200:
                    raise refusal(reply.status, await reply.read_all())
                resources.push(attempt.pop_all())
                return reply, info

    async def call(self, model: str, path: str, body: Mapping[str, object]) -> bytes:
        """One short call's whole reply. Raises as `open` does."""
        with contextlib.ExitStack() as resources:
            message = msgspec.json.encode(body)
            reply, _ = await self.open(model, path, lambda _: message, resources)
            return await reply.read_all()

    def not_ready(self) -> NotReady:
        reasons = "; ".join(f"{r.url}: {r.last_error}" for r in self.replicas if not r.ready)
        return NotReady(
            f"no engine is ready yet ({reasons or 'none is configured'})",
            retry_after_s=NOT_READY_RETRY_S,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probes every replica now and then until left; closes all connections at the end."""
        tasks = [asyncio.create_task(self._watch(replica)) for replica in self.replicas]
        tasks.append(asyncio.create_task(self._sweep()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for replica in self.replicas:
                replica.client.close()

    async def _watch(self, replica: Replica) -> None:
        while True:
            await replica.probe()
            await asyncio.sleep(self._probe_interval_s if replica.ready else 0.5)

    async def _sweep(self) -> None:
        """Apart from the probes: an engine that leaves a probe waiting must not stop time-outs."""
        loop = asyncio.get_running_loop()
        while True:
            for replica in self.replicas:
                replica.client.sweep(loop.time())
            await asyncio.sleep(self._probe_interval_s)


# ---- asking an engine what it is ----


class _ModelCard(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _ModelList(msgspec.Struct):
    data: Annotated[list[_ModelCard], Meta(min_length=1)]


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _ProbeMessage(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _ProbeChoice(msgspec.Struct):
    message: _ProbeMessage


class _ProbeReply(msgspec.Struct):
    choices: Annotated[list[_ProbeChoice], Meta(min_length=1)]


async def describe(client: EngineClient) -> EngineInfo:
    """Asks the engine for its model, its context, and how its replies present the trace.

    The last takes one generated token: an engine with a reasoning parser puts it in `reasoning`.
    Raises `UpstreamError` or `msgspec.DecodeError`.
    """
    card = msgspec.json.decode(await _expect_ok(client, "/v1/models"), type=_ModelList).data[0]
    prompt = await _tokenize(client, {"model": card.id, "messages": PROBE_MESSAGES})
    open_id = await _single_id(client, card.id, OPEN_TAG)
    close_id = await _single_id(client, card.id, CLOSE_TAG)
    has_budget, first = True, await _first_token(client, card.id, budget=1)
    if first is None:
        has_budget, first = False, await _first_token(client, card.id, budget=None)
    if first is None:
        raise UpstreamError("the engine refuses to generate a single token")
    message = first.choices[0].message
    return EngineInfo(
        model=card.id,
        max_model_len=card.max_model_len or 32768,
        trace=TraceFormat(
            opened_by_template=open_id in prompt[-4:] if prompt and open_id is not None else True,
            split_by_engine=not message.content,
            open_id=open_id,
            close_id=close_id,
        ),
        has_thinking_budget=has_budget,
    )


async def _expect_ok(client: EngineClient, path: str) -> bytes:
    status, body = await client.get_json(path)
    if status != 200:
        raise UpstreamError(f"{path} answered {status}")
    return body


async def _post(client: EngineClient, path: str, body: dict[str, object]) -> tuple[int, bytes]:
    async with await client.request("POST", path, msgspec.json.encode(body)) as reply:
        return reply.status, await reply.read_all()


async def _tokenize(client: EngineClient, body: dict[str, object]) -> list[int]:
    status, reply = await _post(client, "/tokenize", body)
    return msgspec.json.decode(reply, type=_Tokens).tokens if status == 200 else []


async def _single_id(client: EngineClient, model: str, tag: str) -> int | None:
    ids = await _tokenize(client, {"model": model, "prompt": tag, "add_special_tokens": False})
    return ids[0] if len(ids) == 1 else None


async def _first_token(client: EngineClient, model: str, budget: int | None) -> _ProbeReply | None:
    """One generated token, or None where the engine calls the request invalid."""
    body: dict[str, object] = {
        "model": model,
        "messages": PROBE_MESSAGES,
        "max_tokens": 1,
        "temperature": 0,
    }
    if budget is not None:
        body["thinking_token_budget"] = budget
    status, reply = await _post(client, "/v1/chat/completions", body)
    if status >= 500:
        raise UpstreamError(f"the engine answered {status} to a probe of one token")
    return msgspec.json.decode(reply, type=_ProbeReply) if status == 200 else None
