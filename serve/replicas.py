"""The set of replicas: which there are, the choice of one for a request, and retries elsewhere.

A lease counts a request as in flight until its stream ends, on every path. A replica that leaves
the set takes no new work at once; its open streams go on to their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

import msgspec

from serve.balancing import make_policy
from serve.describe import EngineInfo
from serve.discovery import make_source
from serve.errors import NotReady, ServeError
from serve.legs import Legs
from serve.replica import Lease, Replica, Taker
from serve.retries import RetryBudget
from serve.settings import RouterSettings
from serve.upstream import retry_reason

__all__ = ["Lease", "Replica", "ReplicaSet"]

log = logging.getLogger(__name__)

NOT_READY_RETRY_S = 5.0
MAX_ATTEMPTS = 3
MAX_SWEEP_INTERVAL_S = 1.0


class ReplicaSet:
    """All replicas; probing and discovery start and end with `running()`. Raises `SettingsError`
    where the settings don't name exactly one source of URLs."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._source = make_source(settings)
        self._policy = make_policy(settings.balancing, random.Random())
        self._budget = RetryBudget()
        self._watches: dict[Replica, asyncio.Task[None]] | None = None
        self.num_retries: Counter[str] = Counter()
        """Retries so far, by reason."""
        self.leaving: list[Replica] = []
        """Taken out of the set, with streams still open."""
        self.replicas: list[Replica] = []
        self._urls: dict[str, None] = {}
        """Of those that the source names."""
        self.update(self._source.initial())

    # ---- what there is ----

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.ready]

    @property
    def all_probed(self) -> bool:
        """Whether replicas are known, and each has been looked at."""
        return bool(self.replicas) and all(replica.probed for replica in self.replicas)

    @property
    def capacity(self) -> int | None:
        """Requests that the ready replicas take at once; None without a limit per replica."""
        limit = self._settings.max_in_flight_per_replica
        return limit * len(self.ready) if limit else None

    def models(self) -> dict[str, EngineInfo]:
        """Served name → what serves it, over the ready replicas."""
        return {info.model: info for replica in self.ready if (info := replica.info)}

    def update(self, urls: Sequence[str]) -> None:
        """Makes the set consist of `urls`: new ones are probed, one that is about to leave stays
        after all, the others leave. Those that are ready stay until one of `urls` is: an engine
        that is told to end soon is better than none."""
        known = {replica.url: replica for replica in (*self.replicas, *self.leaving)}
        self._urls = dict.fromkeys(urls)
        named = [known.get(url) or self._add(url) for url in self._urls]
        for replica in [it for it in self.leaving if it.url in self._urls]:
            self.leaving.remove(replica)
            replica.health.rejoin()
        self.replicas = named + [it for it in self.replicas if it.url not in self._urls]
        self._let_go()

    def _let_go(self) -> None:
        """Those that `update` didn't name leave, as soon as it can be."""
        gone = [replica for replica in self.replicas if replica.url not in self._urls]
        named = [replica for replica in self.replicas if replica.url in self._urls]
        if named and not any(replica.ready for replica in named):
            gone = [replica for replica in gone if not replica.ready]
        for replica in gone:
            log.info("replica %s leaves, %d in flight", replica.url, replica.num_in_flight)
            self.replicas.remove(replica)
            replica.health.drain()
            self.leaving.append(replica)

    def _add(self, url: str) -> Replica:
        replica = Replica(url, self._settings, self._can_do_without_one)
        self._start(replica)
        return replica

    def _can_do_without_one(self) -> bool:
        """Failures eject only while half of the replicas stay: what fails everywhere is more likely
        the requests' fault, and a bad replica is better than none."""
        return 2 * (len(self.ready) - 1) >= len(self.replicas)

    # ---- one request ----

    def choose(
        self, model: str, avoid: Collection[Replica] = (), affinity: bytes | None = None
    ) -> tuple[Replica, EngineInfo]:
        """The policy's choice among the replicas of `model` that take work; one of `avoid` or at
        its limit only where there is no other. Raises `NotReady` with a Retry-After."""
        candidates = self._candidates(model)
        if not candidates:
            raise self.not_ready()
        limit = self._settings.max_in_flight_per_replica
        others = [it for it in candidates if it[0] not in avoid] or candidates
        free = [it for it in others if limit is None or it[0].num_in_flight < limit] or others
        infos = dict(free)
        replica = self._policy.choose(list(infos), affinity)
        return replica, infos[replica]

    def _candidates(self, model: str) -> list[tuple[Replica, EngineInfo]]:
        now_s = time.monotonic()
        return [
            (replica, info)
            for replica in self.replicas
            if (info := replica.info) is not None
            and info.model == model
            and replica.health.takes_work(now_s)
        ]

    async def open(
        self,
        model: str,
        path: str,
        body_for: Callable[[EngineInfo], bytes],
        *,
        headers: Mapping[str, str] | None = None,
        avoid: Collection[Replica] = (),
        affinity: bytes | None = None,
        taker: Taker | None = None,
        legs: Legs | None = None,
    ) -> Lease:
        """Posts to a replica of `model`, one of `avoid` only where there is no other; the lease
        holds the open reply (status 200), which `taker`, if there is one, has taken. Each try is
        one of `legs`.

        What fails by a replica's fault before anything of it was taken is sent to another one, up
        to `MAX_ATTEMPTS` in all and within the budget of retries; finding nobody at an address
        counts as no attempt, since no engine has worked and that replica is out at once.

        Raises `ServeError`, also where the engine refuses; nothing is left running then.
        """
        self._budget.request()
        tried: set[Replica] = set()
        num_attempts = 0
        while True:
            replica, info = self.choose(model, (*avoid, *tried), affinity)
            message = body_for(info)
            leg = None if legs is None else legs.begin(replica.url)
            lease = Lease(replica, info, leg)
            if taker is not None:
                taker.hold(lease)
            try:
                await lease.send(path, message, headers, taker)
                return lease
            except ServeError as exc:
                if lease.accepted:
                    raise
                reason = retry_reason(exc)
                num_attempts += reason != "connect" or replica in tried
                tried.add(replica)
                if reason is None or num_attempts >= MAX_ATTEMPTS:
                    raise
                if reason != "connect" and not self._retry_helps(model, reason, tried):
                    raise
                self.num_retries[reason] += 1

    def _retry_helps(self, model: str, reason: str, tried: Collection[Replica]) -> bool:
        """Whether there is somewhere to go, and budget. A connection that broke is worth a second
        try where it was; who is busy, stopping or silent will be so a moment later."""
        elsewhere = any(replica not in tried for replica, _ in self._candidates(model))
        return (elsewhere or reason == "broken") and self.may_retry()

    def may_retry(self) -> bool:
        """Takes one from the budget of retries: ask before a stream that broke is continued."""
        return self._budget.take(time.monotonic())

    async def call(self, model: str, path: str, body: Mapping[str, object]) -> bytes:
        """One short call's whole reply. Raises as `open` does."""
        message = msgspec.json.encode(body)
        lease = await self.open(model, path, lambda _: message)
        with contextlib.closing(lease):
            return await lease.reply.read_all()

    def not_ready(self) -> NotReady:
        reasons = "; ".join(f"{r.url}: {r.last_error}" for r in self.replicas if not r.ready)
        return NotReady(
            f"no engine is ready yet ({reasons or 'none is configured'})",
            retry_after_s=NOT_READY_RETRY_S,
        )

    # ---- over time ----

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probes every replica now and then and follows the source of URLs until left; closes all
        connections at the end."""
        self._watches = {}
        for replica in self.replicas:
            self._start(replica)
        tasks = [
            asyncio.create_task(self._source.watch(self.update)),
            asyncio.create_task(self._sweep()),
        ]
        try:
            yield
        finally:
            tasks += self._watches.values()
            self._watches = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for replica in (*self.replicas, *self.leaving):
                replica.close()

    def _start(self, replica: Replica) -> None:
        if self._watches is not None:
            self._watches[replica] = asyncio.create_task(replica.watch())

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for replica in (*self.replicas, *self.leaving):
                replica.sweep(loop.time())
            self._let_go()
            for replica in [it for it in self.leaving if not it.num_in_flight]:
                self._end(replica)
            await asyncio.sleep(min(self._settings.probe_interval_s, MAX_SWEEP_INTERVAL_S))

    def _end(self, replica: Replica) -> None:
        """The last stream of a replica that left has ended."""
        self.leaving.remove(replica)
        if self._watches is not None and (task := self._watches.pop(replica, None)):
            task.cancel()
        replica.close()
        log.info("replica %s has left", replica.url)
