"""The set of engine replicas: which are ready, how busy each is, and the choice of one.

A replica is ready once it answers `/health` and has told what it serves (`EngineInfo`); a failed
connection takes it out at once and the next good probe brings it back. A lease counts a request
as in flight until its stream ends, on every path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping

import msgspec

from serve.connection import ConnectFailed, Reply
from serve.describe import EngineInfo, describe, expect_ok
from serve.errors import NotReady, UpstreamError
from serve.settings import RouterSettings
from serve.upstream import EngineClient, refusal

log = logging.getLogger(__name__)

NOT_READY_RETRY_S = 5.0


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
            await expect_ok(self.client, "/health")
            if self.info is None:
                self.info = await describe(self.client)
                log.info("replica %s is ready: %s", self.url, self.info)
            self.healthy = True
            self.last_error = ""
        except (UpstreamError, msgspec.DecodeError) as exc:
            self.down(exc)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1


class Lease:
    """One call at one replica, in flight until `close()`; `reply` is open, its status 200."""

    __slots__ = ("_resources", "info", "replica", "reply")

    def __init__(
        self, replica: Replica, info: EngineInfo, reply: Reply, resources: contextlib.ExitStack
    ) -> None:
        self.replica = replica
        self.info = info
        self.reply = reply
        self._resources = resources

    def failed(self, error: UpstreamError) -> None:
        """The reply broke off by the replica's fault."""

    def close(self) -> None:
        """Ends the call, on the engine too where its reply is unfinished. May be called again."""
        self._resources.close()


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

    def choose(self, model: str, avoid: Collection[Replica] = ()) -> tuple[Replica, EngineInfo]:
        """The least busy ready replica of `model`, one of `avoid` last. Raises `NotReady` with a
        Retry-After."""
        candidates = [
            (replica, info)
            for replica in self.ready
            if (info := replica.info) is not None and info.model == model
        ]
        if not candidates:
            raise self.not_ready()
        return min(candidates, key=lambda it: (it[0] in avoid, it[0].num_in_flight))

    async def open(
        self,
        model: str,
        path: str,
        body_for: Callable[[EngineInfo], bytes],
        *,
        headers: Mapping[str, str] | None = None,
        avoid: Collection[Replica] = (),
    ) -> Lease:
        """Posts to a replica of `model`, one of `avoid` only where there is no other; the lease
        holds the open reply (status 200). A replica that can't be reached is put out of rotation
        and the next one is tried.

        Raises `ServeError`, also where the engine refuses; nothing is left running then.
        """
        while True:
            replica, info = self.choose(model, avoid)
            with contextlib.ExitStack() as resources:
                resources.enter_context(replica.busy())
                try:
                    reply = await replica.client.request("POST", path, body_for(info), headers)
                except ConnectFailed as exc:
                    replica.down(exc)
                    continue
                resources.callback(reply.close)
                if reply.status != 200:
                    raise refusal(reply.status, await reply.read_all())
                return Lease(replica, info, reply, resources.pop_all())

    async def call(self, model: str, path: str, body: Mapping[str, object]) -> bytes:
        """One short call's whole reply. Raises as `open` does."""
        message = msgspec.json.encode(body)
        lease = await self.open(model, path, lambda _: message)
        with contextlib.closing(lease):
            return await lease.reply.read_all()

    def may_retry(self) -> bool:
        return True

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
