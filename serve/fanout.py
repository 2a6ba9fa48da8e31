"""Engines as Ray actors, one per replica: Ray places them, starts them again and moves them.

An actor runs its engine as `serve.engine_keeper` does on any machine, so a dead engine comes back
beside it. A dead actor, or one whose node is gone, Ray starts anew where there is room, and the
engine is back at another URL. Tokens go from the engine to the router directly, so that nothing of
a request passes through Ray (docs/decisions/0014). Only this module and the process that
`serve.ray_head` starts import it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from serve.engine import Machine, find_machine
from serve.engine_faults import EngineStartError, Fault
from serve.engine_keeper import STOP_MARGIN_S, EngineKeeper, make_keeper
from serve.fleet import MakeKeeper, Renewal
from serve.settings import EngineSettings, RaySettings
from serve.supervise import Backoff, end

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.5
HOLD_S = 5.0
LOOK_TIMEOUT_S = 2 * HOLD_S
CONNECT_TIMEOUT_S = 10.0


class Report(msgspec.Struct, frozen=True):
    """What an actor tells of its engine."""

    url: str
    place: str
    phase: str
    ready: bool
    fault: str | None = None
    """Why the first start failed."""


class EngineActor:
    """Runs on a node of the cluster, in a process of Ray's. What Ray starts again begins anew."""

    def __init__(self, settings: EngineSettings, index: int) -> None:
        self._settings = settings
        self._index = index
        self._place = ray.util.get_node_ip_address()
        self._keeper: EngineKeeper | None = None
        self._fault: str | None = None
        self._starting: asyncio.Task[None] | None = None

    async def look(self, known: dict[str, Any] | None) -> dict[str, Any]:
        """A `Report`, as soon as it isn't `known`, or after `HOLD_S`; the first look starts the
        engine. (A look each half second from afar takes 1.5 % of a core for each engine.)"""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        deadline_s = time.monotonic() + HOLD_S
        while (report := self._report()) == known and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_INTERVAL_S)
        return report

    def _report(self) -> dict[str, Any]:
        keeper = self._keeper
        url, phase, ready = "", "starting", False
        if keeper is not None:
            url, phase, ready = keeper.url, keeper.phase, keeper.ready
        report = Report(url, self._place, phase, ready, self._fault)
        return cast(dict[str, Any], msgspec.to_builtins(report))

    async def _start(self) -> None:
        """Keeps the engine, whether its first start went well or not: who asked for it decides."""
        try:
            machine = find_machine()
            settings = msgspec.structs.replace(self._settings, host=self._place, port=0)
            if machine is not None and machine.device == "gpu":
                # Ray has chosen the GPUs of this process, and so of its children.
                settings = msgspec.structs.replace(settings, num_replicas=1)
            index = self._index if settings.num_replicas > self._index else 0
            self._keeper = make_keeper(lambda line: None, settings, machine, index)
            await self._keeper.start()
            self._keeper.keep()
        except EngineStartError as exc:
            self._fault = str(exc)
            if self._keeper is not None:
                self._keeper.keep(self._fault)
        except Exception as exc:  # whatever it is, who asked for the engine must hear of it
            self._fault = str(exc) or repr(exc)

    async def stop(self) -> None:
        """Lets running requests finish. Nothing of the engine is left then."""
        await end(self._starting)
        if self._keeper is not None:
            await self._keeper.let_go()
            await self._keeper.stop()


class RayKeeper:
    """A `fleet.Keeper` of an engine that an actor runs."""

    def __init__(
        self, settings: EngineSettings, machine: Machine | None, index: int, where: RaySettings
    ) -> None:
        self.settings = settings
        self.index = index
        self._where = where
        self._resources = resources_of(settings, machine, where)
        self._group: PlacementGroup | None = None
        self._actor: Any = None
        self._report: Report | None = None
        self._reached = False
        self._keeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self._report.url if self._report else ""

    @property
    def place(self) -> str:
        return self._report.place if self._report else ""

    @property
    def ready(self) -> bool:
        return self._reached and self._report is not None and self._report.ready

    @property
    def phase(self) -> str:
        if self._report is None:
            return "waiting for a node with room"
        return self._report.phase if self._reached else "its actor doesn't answer"

    async def start(self) -> None:
        deadline = asyncio.get_running_loop().time() + self.settings.startup_timeout_s
        try:
            self._spawn()
            async with asyncio.timeout_at(deadline):
                while not self.ready:
                    await self._look()
                    if self._report and self._report.fault:
                        raise EngineStartError(Fault(self._report.fault))
        except TimeoutError:
            fault = self._late()
            await self.stop()
            raise EngineStartError(fault) from None
        except RayError as exc:
            self._remove()
            raise EngineStartError(Fault(f"The engine's actor can't run: {exc}")) from exc
        except EngineStartError:
            await self.stop()
            raise

    def _late(self) -> Fault:
        after = f"after {self.settings.startup_timeout_s:.0f} s"
        if self._report is not None:
            return Fault(
                f"The engine on {self.place} was not ready {after} (it was {self.phase}).",
                "If it only needs longer, raise `engine.startup_timeout_s`.",
            )
        wanted, there, free = (
            ", ".join(f"{resources.get(name, 0):g} {name}" for name in self._resources)
            for resources in (self._resources, ray.cluster_resources(), ray.available_resources())
        )
        return Fault(
            f"No node had room for an engine {after}: it needs {wanted}, the cluster has {there}, "
            f"free are {free}.",
            "Run fewer engines, add a node, or lower `ray.num_cpus_per_replica` or "
            "`ray.num_gpus_per_replica`.",
        )

    def _spawn(self) -> None:
        """The room is kept for the engine, whoever else asks, until it is removed."""
        self._group = placement_group([self._resources], strategy="STRICT_PACK")
        self._actor = (
            ray.remote(EngineActor)
            .options(
                num_cpus=self._resources["CPU"],
                num_gpus=self._resources.get("GPU", 0),
                max_restarts=-1,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, 0),
            )
            .remote(self.settings, self.index)
        )

    async def _look(self) -> None:
        """Returns when there is news of the actor, or none for a while. Raises `RayError`
        where there is no actor any more. One that doesn't answer now may have an engine that does:
        the router finds that out."""
        known = msgspec.to_builtins(self._report) if self._reached else None
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S if self._report else None):
                told = await self._actor.look.remote(known)
        except (ActorUnavailableError, TimeoutError):
            self._reached = False
            await asyncio.sleep(LOOK_INTERVAL_S)
            return
        try:
            report = msgspec.convert(told, Report)
        except msgspec.ValidationError as exc:
            raise EngineStartError(Fault(f"A node has another version of r1-serve: {exc}")) from exc
        if "" not in (report.url, self.url) and report.url != self.url:
            log.warning("engine %d is at %s now, on %s", self.index, report.url, report.place)
        self._report, self._reached = report, True

    def keep(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def let_go(self) -> None:
        await end(self._keeping)
        self._keeping = None

    async def _keep(self) -> None:
        backoff = Backoff()
        while True:
            began_at = time.monotonic()
            try:
                if self._actor is None:
                    self._spawn()
                while True:
                    await self._look()
                    if self._report and self._report.fault and not self._report.url:
                        raise EngineStartError(Fault(self._report.fault))
            except (RayError, EngineStartError) as exc:
                delay_s = backoff.delay_s(time.monotonic() - began_at)
                log.error("engine %d: %s A new actor in %.0f s.", self.index, exc, delay_s)
                self._remove()
                await asyncio.sleep(delay_s)

    def renewal(self, settings: EngineSettings, machine: Machine | None) -> Renewal:
        resources = resources_of(settings, machine, self._where)
        return functools.partial(self._renew, settings, resources)

    async def _renew(self, settings: EngineSettings, resources: dict[str, float]) -> None:
        await self.let_go()
        await self.stop()
        old = self.settings, self._resources
        self.settings, self._resources = settings, resources
        try:
            await self.start()
        except EngineStartError:
            self.settings, self._resources = old
            raise
        finally:
            self.keep()

    async def stop(self) -> None:
        """As `Keeper.stop`; when cancelled, the engine has some seconds (`tether.GRACE_S`) left."""
        drain_s = self.settings.shutdown_timeout_s + 2 * STOP_MARGIN_S
        try:
            if self._actor is not None and self._report is not None:
                async with asyncio.timeout(drain_s):
                    await self._actor.stop.remote()
        except (RayError, TimeoutError) as exc:
            log.warning("engine %d did not stop by itself: %s", self.index, exc)
        finally:
            self._remove()

    def _remove(self) -> None:
        """The actor with what it runs, and the room that was kept for it."""
        if self._actor is not None:
            ray.kill(self._actor)
        if self._group is not None:
            remove_placement_group(self._group)
        self._actor = self._group = self._report = None
        self._reached = False

    def close(self) -> None:
        pass


def resources_of(
    engine: EngineSettings, machine: Machine | None, where: RaySettings
) -> dict[str, float]:
    """What an engine takes of its node, in Ray's terms. Where no vLLM is here to tell whether it
    wants a GPU, the cluster tells."""
    num_gpus = where.num_gpus_per_replica
    if num_gpus is None:
        on_gpu = machine.device == "gpu" if machine else "GPU" in ray.cluster_resources()
        num_gpus = engine.tensor_parallel_size if on_gpu else 0
    resources = {"CPU": where.num_cpus_per_replica}
    return resources | {"GPU": num_gpus} if num_gpus else resources


@contextlib.contextmanager
def joined(settings: RaySettings, address: str, node_ip: str | None) -> Iterator[MakeKeeper]:
    """What makes engines on the cluster at `address`, connected to it until left. `node_ip`: this
    machine's in it, where Ray can't tell. Raises `EngineStartError`."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    _check_reachable(address)
    options = {} if node_ip is None else {"_node_ip_address": node_ip}
    try:
        ray.init(
            address, namespace="r1-serve", log_to_driver=False, configure_logging=False, **options
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as exc:
        raise _not_there(address, exc) from exc
    try:
        yield lambda engine, machine, index: RayKeeper(engine, machine, index, settings)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for many minutes."""
    host, found, port = address.rpartition(":")
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while found:
        try:
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
            return
        except (OSError, ValueError) as exc:
            if time.monotonic() > deadline:
                raise _not_there(address, exc) from exc
            time.sleep(LOOK_INTERVAL_S)


def _not_there(address: str, why: Exception) -> EngineStartError:
    remedy = "Start one with `ray start --head`, or leave `ray.address` out to have our own."
    return EngineStartError(Fault(f"No Ray cluster at `{address}`: {why}", remedy))
