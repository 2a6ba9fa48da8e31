"""What Kubernetes' controllers make of the rendered manifests: Deployments that scale and roll,
Services that list the pods that are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.cluster.network import CLUSTER_DOMAIN, GATEWAY, ClusterDns, Streams
from tests.cluster.pod import Json, Pod, Substitute
from tests.conftest import ROOT
from tests.k8s.manifests import Manifests, selects
from tests.support import eventually

DNS_TTL_S = 30.0
"""What kubeadm's CoreDNS says of Services' records, and how long its cache keeps answers."""
PROPAGATION_S = 1.0
"""From a pod's condition through its EndpointSlice to name servers and nodes."""
SETTLE_S = 60.0
"""Until pods are ready, on a slow machine."""
POLL_S = 0.02


class Cluster:
    """`secrets` are those that a person makes by hand: name → file → content. Its name server and
    its pods are there while it is `running`; all times of the manifests are divided by `haste`."""

    def __init__(
        self,
        manifests: Manifests,
        directory: Path,
        haste: float,
        secrets: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        self.manifests = manifests
        self.directory = directory
        self.haste = haste
        self.namespace: str = manifests.one("Deployment", "r1-router")["metadata"]["namespace"]
        self.pods: list[Pod] = []
        self.others: dict[str, list[str]] = {}
        """Headless Service → addresses that it has besides those of pods."""
        self.dns = ClusterDns(DNS_TTL_S / haste)
        self._routers: list[tuple[str, int]] = []
        """Endpoints of the one Service that has an address."""
        self._secrets = secrets
        self._publishing: set[asyncio.Task[None]] = set()
        self._hosts = itertools.count(2)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Nothing is left of its pods in the end, whatever happened."""
        async with self.dns.serving():
            self.changed()
            try:
                yield
            finally:
                for pod in self.pods:
                    await pod.end()

    def changed(self) -> None:
        """Who looks for pods gets to know a little later."""
        publishing = asyncio.create_task(self._publish_later())
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)

    async def told(self) -> None:
        """Returns when all that has changed is known."""
        if self._publishing:
            await asyncio.gather(*self._publishing)

    async def _publish_later(self) -> None:
        await asyncio.sleep(PROPAGATION_S / self.haste)
        self._publish()

    def _publish(self) -> None:
        for service in self.manifests.of("Service"):
            name, spec = service["metadata"]["name"], service["spec"]
            pods = self._endpoints(spec)
            if spec.get("clusterIP") == "None":
                host = f"{name}.{self.namespace}.svc.{CLUSTER_DOMAIN}"
                others = self.others.get(name, [])
                self.dns.records[host] = [*(pod.address for pod in pods), *others]
            else:
                (port,) = spec["ports"]
                self._routers = [(it.address, it.port(port["targetPort"])) for it in pods]

    def _endpoints(self, service: Json) -> list[Pod]:
        selected = [it for it in self.pods if selects(service["selector"], it.labels)]
        if service.get("publishNotReadyAddresses"):
            return selected
        return [it for it in selected if it.ready and not it.terminating]

    async def connect_to_router(self) -> Streams:
        """As kube-proxy does for a connection to the Service."""
        if not self._routers:
            raise ConnectionRefusedError
        return await asyncio.open_connection(*random.choice(self._routers))

    # ---- what a pod's node has ----

    def new_address(self) -> str:
        """Never one that was used before."""
        return f"{GATEWAY.rpartition('.')[0]}.{next(self._hosts)}"

    def files(self, volume: Json) -> dict[str, bytes]:
        """Of a ConfigMap or Secret; whatever else is empty."""
        if secret := volume.get("secret"):
            return dict(self._secrets[secret["secretName"]])
        if config := volume.get("configMap"):
            data = self.manifests.one("ConfigMap", config["name"])["data"]
            return {name: text.encode() for name, text in data.items()}
        return {}

    def program(self) -> str:
        """As it is in this checkout, but for how often it looks a name up."""
        return f"""#!{sys.executable} -B
import functools, sys
sys.path.insert(0, {str(ROOT)!r})
from serve import discovery
interval_s = discovery.RESOLVE_INTERVAL_S / {self.haste}
discovery.DnsSource = functools.partial(discovery.DnsSource, interval_s=interval_s)
from serve.cli import app
app()
"""


class Deployment:
    """One of the cluster's, without a pod at first. `substitute` gives another command than the
    container's."""

    def __init__(self, cluster: Cluster, name: str, substitute: Substitute | None = None) -> None:
        self.pods: list[Pod] = []
        """The oldest first; those that terminate are none of them any more."""
        self.ended: list[Pod] = []
        self._cluster = cluster
        self._name = name
        self._spec: Json = cluster.manifests.one("Deployment", name)["spec"]
        self._substitute = substitute
        self._numbers = itertools.count()
        self._ending: dict[asyncio.Task[None], Pod] = {}

    async def scale(self, num_replicas: int) -> None:
        """Returns when so many are ready, which name servers and nodes know, and the others have
        ended."""
        while len(self.pods) < num_replicas:
            self._create()
        for pod in self.pods[num_replicas:]:
            self._delete(pod)
        await eventually(lambda: all(pod.ready for pod in self.pods), within_s=SETTLE_S)
        await self._cluster.told()
        while self._ending:
            await asyncio.wait(self._ending)
            self._bury()

    async def roll(self) -> None:
        """Replaces every pod, as the strategy says. There is room for the surge and no more, pods
        that terminate included: a GPU is free when the old pod is gone."""
        old, num_replicas = list(self.pods), len(self.pods)
        strategy = self._spec["strategy"]["rollingUpdate"]
        while old or not all(map(self._is_available, self.pods)):
            self._bury()
            num_running = len(self.pods) + len(self._ending)
            num_new = len(self.pods) - len(old)
            if num_running < num_replicas + strategy["maxSurge"] and num_new < num_replicas:
                self._create()
            num_available = sum(map(self._is_available, self.pods))
            if old and num_available > num_replicas - strategy["maxUnavailable"]:
                self._delete(old.pop(0))
            await asyncio.sleep(POLL_S)
        await self.scale(num_replicas)

    def _is_available(self, pod: Pod) -> bool:
        min_ready_s = self._spec["minReadySeconds"] / self._cluster.haste
        return pod.ready and time.monotonic() - (pod.ready_since_s or 0) >= min_ready_s

    def _create(self) -> None:
        name = f"{self._name}-{next(self._numbers)}"
        pod = Pod(self._cluster, name, self._spec["template"], self._substitute)
        self._cluster.pods.append(pod)
        self.pods.append(pod)

    def _delete(self, pod: Pod) -> None:
        self.pods.remove(pod)
        self._ending[asyncio.create_task(pod.delete())] = pod

    def _bury(self) -> None:
        for task in [it for it in self._ending if it.done()]:
            task.result()
            self.ended.append(self._ending[task])
            self._cluster.pods.remove(self._ending.pop(task))
