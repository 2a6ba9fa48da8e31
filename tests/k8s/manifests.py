"""The manifests as `kubectl kustomize` renders them, each once per run, and ways into them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve import __version__
from serve.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
NO_KUBECTL = (
    "kubectl is not on the PATH; https://kubernetes.io/docs/tasks/tools/ tells how to install it "
    "(any version from 1.30)"
)
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
ADDED = [name for name in COMPONENTS if name not in ("model-cache", "ray", "monitoring-ray")]
"""To the overlay `gpu`; the others are in it, or for another overlay."""
ALL_ADDED = "+".join(["gpu", *ADDED])
VARIANTS = [*OVERLAYS, *(f"gpu+{name}" for name in ADDED), ALL_ADDED, "gpu-ray+monitoring-ray"]
"""Everything that is rendered: an overlay, or one with components added."""
OF_VERSION = f"-{__version__.replace('.', '-')}"
"""In the name of a Job, which can't be changed."""
WITH_ENGINES = ["dev", "edge", "gpu"]
"""The overlays over the base."""


@dataclass(frozen=True)
class Manifests:
    """One rendered variant. Names of generated ConfigMaps carry their hash."""

    text: str
    objects: tuple[dict[str, Any], ...]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [it for it in self.objects if it["kind"] == kind]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [it for it in self.of(kind) if it["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and template of every kind of pod; KubeRay's among them, a Job's without version."""
        for it in self.objects:
            if it["kind"] in ("Deployment", "Job"):
                yield it["metadata"]["name"].removesuffix(OF_VERSION), it["spec"]["template"]
            elif it["kind"] == "RayCluster":
                yield "ray-head", it["spec"]["headGroupSpec"]["template"]
                for group in it["spec"]["workerGroupSpecs"]:
                    yield f"ray-{group['groupName']}", group["template"]

    def pod(self, name: str) -> dict[str, Any]:
        """The template of that pod."""
        return dict(self.pods())[name]

    def settings_files(self) -> dict[str, str]:
        (found,) = [
            it["data"]
            for it in self.of("ConfigMap")
            if it["metadata"]["name"].startswith("r1-serve")
        ]
        return dict(found)

    def settings(self) -> Settings:
        """As the router reads them, from the mounted files."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in self.settings_files().items():
                Path(folder, name).write_text(text)
            return load_settings(Path(folder, "kubernetes.toml"))


def render(variant: str) -> Manifests:
    """An overlay, with components added after `+`. Without kubectl the test that asks is skipped,
    or fails in CI."""
    if shutil.which("kubectl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NO_KUBECTL)
        pytest.skip(NO_KUBECTL)
    text = rendered(variant)
    return Manifests(text, parsed(text))


@functools.cache
def rendered(variant: str) -> str:
    """The YAML of `variant`. Raises `CalledProcessError` where it can't be rendered."""
    overlay, *components = variant.split("+")
    if not components:
        return _kustomize(K8S / "overlays" / overlay)
    return _kustomized(
        {
            "resources": [K8S / "overlays" / overlay],
            "components": [K8S / "components" / it for it in components],
        }
    )


def overlay_of(kustomization: dict[str, Any]) -> Manifests:
    """Of an overlay that lies beside a checkout named `r1-serve`, with a settings file in it."""
    here = {
        **kustomization,
        **{
            kind: [ROOT / it.removeprefix("../r1-serve/") for it in kustomization.get(kind, ())]
            for kind in ("resources", "components")
        },
    }
    text = _kustomized(here)
    return Manifests(text, parsed(text))


def _kustomized(kustomization: dict[str, Any]) -> str:
    """Paths in it are absolute; kustomize wants them relative."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        shutil.copy(ROOT / "configs" / "kubernetes.toml", folder)
        relative = {
            kind: [os.path.relpath(it, folder) for it in kustomization[kind]]
            for kind in ("resources", "components")
        }
        whole = yaml.safe_dump({**kustomization, **relative})
        Path(folder, "kustomization.yaml").write_text(whole)
        return _kustomize(folder)


@functools.cache
def parsed(text: str) -> tuple[dict[str, Any], ...]:
    return tuple(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _kustomize(folder: Path) -> str:
    command = ["kubectl", "kustomize", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a pod, those that only prepare it among them."""
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def main_container(template: dict[str, Any]) -> dict[str, Any]:
    return dict(template["spec"]["containers"][0])


def mounted(template: dict[str, Any], container: dict[str, Any], path: str) -> dict[str, Any]:
    """The volume that is mounted there."""
    (name,) = [it["name"] for it in container["volumeMounts"] if it["mountPath"] == path]
    (volume,) = [it for it in template["spec"]["volumes"] if it["name"] == name]
    return dict(volume)


def env(container: dict[str, Any]) -> dict[str, str]:
    return {it["name"]: it["value"] for it in container.get("env", [])}


def port_of(container: dict[str, Any], name: str | int) -> int:
    """Of that name, as a Service or a probe refers to it."""
    (port,) = [it["containerPort"] for it in container["ports"] if it["name"] == name]
    return int(port)


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()
