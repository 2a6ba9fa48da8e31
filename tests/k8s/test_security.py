"""Pods run with no more rights than they need, and within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.k8s.manifests import (
    VARIANTS,
    WITH_ENGINES,
    containers,
    env,
    main_container,
    mounted,
    render,
)

WRITABLE_ROOT = {"engine", "ray-head", "ray-worker"}
"""NVIDIA's hook writes to it, and Ray's image is the user's own."""
WEIGHTS_GIB = 3.55 / 1.0737
"""Of DeepSeek-R1-Distill-Qwen-1.5B; docs/runbook.md says what an engine takes beside them."""
OF_THE_NODE = ("hostNetwork", "hostPID", "hostIPC")


def pods(variant: str) -> list[tuple[str, dict[str, Any]]]:
    return list(render(variant).pods())


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_pod_runs_as_root_or_knows_kubernetes(variant: str) -> None:
    """No token, no capabilities, the runtime's filter of system calls, nothing of the node."""
    for name, template in pods(variant):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not set(OF_THE_NODE) & set(spec), name
        assert not any("hostPath" in it for it in spec["volumes"]), name
        for container in containers(template):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_file_systems_are_read_only_but_those_of_gpu_pods(variant: str) -> None:
    """What is written goes to volumes of a limited size."""
    for name, template in pods(variant):
        for container in containers(template):
            if container["name"] not in WRITABLE_ROOT:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        for volume in template["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], name


@pytest.mark.parametrize("variant", WITH_ENGINES)
def test_the_router_may_write_its_temporary_files(variant: str) -> None:
    """The image's home, too."""
    template = render(variant).pod("r1-router")
    assert "emptyDir" in mounted(template, main_container(template), "/tmp")


@pytest.mark.parametrize("variant", WITH_ENGINES)
def test_every_deployment_has_an_account_of_its_own(variant: str) -> None:
    """Without a token, so that rights given to the default one don't reach us."""
    manifests = render(variant)
    for name, template in manifests.pods():
        account = manifests.one("ServiceAccount", template["spec"]["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False
        assert account["metadata"]["name"] == name
        assert template["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_container_asks_for_what_it_needs(variant: str) -> None:
    """CPU and memory, and a limit on memory; GPUs as many as it may have."""
    for name, template in pods(variant):
        for container in containers(template):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(requests), name
            assert "memory" in limits, name
            assert "cpu" not in limits, "a throttled pod delays every token"
            gpus = requests.get("nvidia.com/gpu"), limits.get("nvidia.com/gpu")
            assert gpus[0] == gpus[1], name


@pytest.mark.parametrize("variant", ["edge", "gpu"])
def test_engines_get_the_gpus_that_the_settings_use(variant: str) -> None:
    """On nodes that are kept for them."""
    manifests = render(variant)
    template = manifests.pod("r1-engine")
    limits = main_container(template)["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) == manifests.settings().engine.tensor_parallel_size
    (toleration,) = template["spec"]["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"


def gib(quantity: str) -> float:
    number, unit = quantity[:-2], quantity[-2:]
    return float(number) * {"Gi": 1, "Mi": 2**-10}[unit]


def cpus(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


@pytest.mark.parametrize("variant", ["edge", "gpu", "gpu-ray"])
def test_an_engine_fits_on_the_usual_node_with_one_gpu(variant: str) -> None:
    """4 CPUs and 16 GiB, of which Kubernetes leaves some 13 to pods; a router beside it, but on
    Ray, where it is in the head. The limit has room for what an engine takes."""
    names = {"ray-gpu"} if variant == "gpu-ray" else {"r1-engine", "r1-router"}
    there = [main_container(it)["resources"] for name, it in pods(variant) if name in names]
    assert sum(cpus(it["requests"]["cpu"]) for it in there) <= 3.5
    assert sum(gib(it["requests"]["memory"]) for it in there) <= 12
    (engine,) = [it for it in there if "nvidia.com/gpu" in it["limits"]]
    assert WEIGHTS_GIB + 6 + 2 <= gib(engine["limits"]["memory"]) <= 14


@pytest.mark.parametrize("variant", ["edge", "gpu"])
def test_engines_run_as_the_images_own_user(variant: str) -> None:
    """vLLM's documentation names it: 2000 in group 0, with a home that it may write. Others have no
    name in the image, and torch asks for it."""
    template = render(variant).pod("r1-engine")
    context = template["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (2000, 0, 0)
    engine = main_container(template)
    assert env(engine)["HOME"] == "/home/vllm"
    assert "emptyDir" in mounted(template, engine, env(engine)["XDG_CACHE_HOME"])


@pytest.mark.parametrize("variant", WITH_ENGINES)
def test_engines_have_shared_memory(variant: str) -> None:
    """The runtime's own 64 MiB are too few for torch."""
    template = render(variant).pod("r1-engine")
    volume = mounted(template, main_container(template), "/dev/shm")
    assert volume["emptyDir"]["medium"] == "Memory"


def test_dev_needs_no_gpu() -> None:
    """Nor a volume, nor a model from anywhere."""
    manifests = render("dev")
    assert "nvidia.com/gpu" not in manifests.text
    assert not manifests.of("PersistentVolumeClaim")
