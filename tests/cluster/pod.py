"""A pod's life as the kubelet leads it, with a real process: start, probes, preStop, signals.

A pod gets its container's own command, environment, mounts, user, group and file system rights
(`pod.sh`) and an address of its own. Not imitated: images (the container sees this machine's files
and this checkout), containers that run before, liveness, resources, seccomp.

Times are the manifest's, divided by `Node.haste`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from serve.engine_process import get
from tests.cluster.network import BRIDGE, CLUSTER_DOMAIN, DNS_ADDRESS, GATEWAY, hardware_address, ip
from tests.conftest import ROOT
from tests.k8s.manifests import env, main_container, port_of
from tests.support import eventually

Json = dict[str, Any]
Substitute = Callable[[Json, float], list[str]]
"""Container and haste → the command that runs in place of the container's own."""

POD_SH = Path(__file__).with_name("pod.sh")
POLL_S = 0.02
_numbers = itertools.count()


class Node(Protocol):
    haste: float
    directory: Path
    namespace: str

    def new_address(self) -> str: ...

    def files(self, volume: Json) -> dict[str, bytes]:
        """What a volume holds at the start."""

    def program(self) -> str:
        """`r1-serve`, as the image has it."""

    def changed(self) -> None:
        """The pod has become ready, isn't any more, or is to end."""


class Pod:
    """Until `delete` or `end`; its container is started again when it ends by itself."""

    def __init__(self, node: Node, name: str, template: Json, substitute: Substitute | None):
        self.name = name
        self.labels: dict[str, str] = template["metadata"]["labels"]
        self.address = node.new_address()
        self.ready_since_s: float | None = None
        self.terminating = False
        self.outlasted_its_grace = False
        self.statuses: list[int] = []
        """Of its container's ends."""
        self._spec: Json = template["spec"]
        self._container = main_container(template)
        self._node = node
        self._command = (
            substitute(self._container, node.haste)
            if substitute
            else [*self._container["command"], *self._container.get("args", [])]
        )
        self._directory = node.directory / name
        self._process: asyncio.subprocess.Process | None = None
        self._life = asyncio.create_task(self._keep_running())

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port('http')}"

    @property
    def ready(self) -> bool:
        """Raises what kept it from starting."""
        if self._life.done():
            self._life.result()
        return self.ready_since_s is not None

    def port(self, name: str | int) -> int:
        return port_of(self._container, name)

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def kill(self) -> None:
        """As the kernel does when memory is short: no warning, no preStop."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        """Not by `Process.send_signal`, which would take the exit status from who waits for it."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def delete(self) -> None:
        """Its endpoint goes while preStop runs; then SIGTERM to the container's process, and
        SIGKILL when the grace is over."""
        pre_stop = self._container["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.terminating = True
        self._node.changed()
        try:
            async with asyncio.timeout(
                self._spec["terminationGracePeriodSeconds"] / self._node.haste
            ):
                await asyncio.sleep(pre_stop / self._node.haste)
                self._send(signal.SIGTERM)
                await asyncio.shield(self._life)
        except TimeoutError:
            self.outlasted_its_grace = True
            self.kill()
            await self._life

    async def end(self) -> None:
        """At once, and whatever has become of it."""
        self.terminating = True
        while not self._life.done():
            self.kill()
            await asyncio.wait({self._life}, timeout=POLL_S)

    # ---- the container ----

    async def _keep_running(self) -> None:
        while not self.terminating:
            self._process = await self._start()
            probing = asyncio.create_task(self._probe())
            try:
                self.statuses.append(await self._process.wait())
            finally:
                probing.cancel()
            if not (self.ready or self.terminating):
                raise RuntimeError(f"{self.name} doesn't start:\n{self.log()}")
            self._set_ready(False)

    async def _start(self) -> asyncio.subprocess.Process:
        self._lay_out()
        security = self._spec["securityContext"] | self._container["securityContext"]
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOSTNAME": self.name}
        variables |= env(self._container)
        with (self._directory / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("unshare", "--net", "--mount", "sh", POD_SH, self._directory),
                *(f"{name}={value}" for name, value in variables.items()),
                *self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ
                | {
                    "READABLE": f"{sys.base_prefix} {sys.prefix} {ROOT}",
                    "READ_ONLY": str(security["readOnlyRootFilesystem"]).lower(),
                    "RUN_AS_USER": str(security["runAsUser"]),
                    "RUN_AS_GROUP": str(security["runAsGroup"]),
                    "GROUPS_OF_POD": str(security["fsGroup"]),
                },
            )
        own = os.readlink("/proc/thread-self/ns/net")
        await eventually(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != own)
        self._plug_in(process.pid)
        if process.stdin:
            process.stdin.write(f"{self.address} {GATEWAY}\n".encode())
            process.stdin.close()
        return process

    def _plug_in(self, pid: int) -> None:
        """The same hardware address at each start: a pod outlasts its container."""
        hardware = hardware_address(self.address)
        end = f"pod{next(_numbers)}"
        ip(f"link add {end} type veth peer name eth0 address {hardware} netns {pid}")
        ip(f"link set {end} master {BRIDGE} up")

    def _lay_out(self) -> None:
        """The directory of which `pod.sh` makes the container's file system."""
        for name in ("layers", "root", "image/usr/local/bin"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        program = self._directory / "image" / "usr" / "local" / "bin" / "r1-serve"
        program.write_text(self._node.program())
        program.chmod(0o755)
        namespace = self._node.namespace
        (self._directory / "resolv.conf").write_text(
            f"search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}\n"
            f"nameserver {DNS_ADDRESS}\noptions ndots:5\n"
        )
        volumes = {it["name"]: it for it in self._spec["volumes"]}
        mounts = self._container["volumeMounts"]
        lines = [f"{self._source(volumes[it['name']])} {it['mountPath']}\n" for it in mounts]
        (self._directory / "mounts").write_text("".join(lines))

    def _source(self, volume: Json) -> str | Path:
        """Where a volume comes from, for `pod.sh`."""
        if "emptyDir" in volume:
            return "tmpfs"
        directory = self._directory / "volumes" / volume["name"]
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self._node.files(volume).items():
            (directory / name).write_bytes(data)
            (directory / name).chmod(volume.get("secret", {}).get("defaultMode", 0o644))
            os.chown(directory / name, 0, self._spec["securityContext"]["fsGroup"])
        return directory

    # ---- probes ----

    async def _probe(self) -> None:
        startup, readiness = (self._container[f"{it}Probe"] for it in ("startup", "readiness"))
        while not await self._passes(startup):
            pass
        num_failures = 0
        while True:
            num_failures = 0 if await self._passes(readiness) else num_failures + 1
            if num_failures in (0, readiness["failureThreshold"]):
                self._set_ready(num_failures == 0)

    async def _passes(self, probe: Json) -> bool:
        """After the probe's period."""
        await asyncio.sleep(probe["periodSeconds"] / self._node.haste)
        get_of = probe["httpGet"]
        url = f"http://{self.address}:{self.port(get_of['port'])}"
        return await get(url, get_of["path"]) is not None

    def _set_ready(self, ready: bool) -> None:
        if ready != (self.ready_since_s is not None):
            self.ready_since_s = time.monotonic() if ready else None
            self._node.changed()
