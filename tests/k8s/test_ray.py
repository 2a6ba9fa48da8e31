"""k8s/components/ray: its parts agree with one another, with the settings and with what is pinned.

What Kubernetes and KubeRay themselves would refuse is found here only in part: misspelt keys of the
RayCluster's own levels, not those of the pods in it, no wrong types, and nothing that shows at run
time. docs/kubernetes.md says what was checked besides.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve import __version__
from serve.commands import validated
from serve.engine_keeper import STOP_MARGIN_S
from serve.settings import Settings, load_settings
from tests.k8s.manifests import K8S, ROOT, env

COMPONENT = K8S / "components" / "ray"
KUSTOMIZATION = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())
OBJECTS: dict[tuple[str, str], Any] = {
    (it["kind"], it["metadata"]["name"]): it
    for name in KUSTOMIZATION["resources"]
    for it in yaml.safe_load_all((COMPONENT / name).read_text())
}
CLUSTER = OBJECTS["RayCluster", "r1-serve"]
SPEC = CLUSTER["spec"]
HEAD_GROUP = SPEC["headGroupSpec"]
(WORKER_GROUP,) = SPEC["workerGroupSpecs"]
HEAD, WORKER = HEAD_GROUP["template"]["spec"], WORKER_GROUP["template"]["spec"]
(ROUTER,) = HEAD["containers"]
(ENGINE,) = WORKER["containers"]
HEAD_LABELS = {"ray.io/cluster": CLUSTER["metadata"]["name"], "ray.io/node-type": "head"}
"""KubeRay's own on the head pod (1.7.0, `labelPod`)."""

KNOWN_KEYS = {
    "spec": "upgradeStrategy authOptions suspend managedBy autoscalerOptions "
    "headServiceAnnotations enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "rayVersion workerGroupSpecs",
    "authOptions": "mode secretName enableK8sTokenAuth",
    "autoscalerOptions": "version idleTimeoutSeconds upscalingMode image imagePullPolicy resources "
    "env envFrom volumeMounts securityContext",
    "headGroupSpec": "template headService enableIngress resources labels rayStartParams "
    "serviceType",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds "
    "suspend scaleStrategy resources labels rayStartParams template",
}
"""Of ray.io/v1 in KubeRay 1.6 and 1.7, without what needs a feature gate. The API server drops
others without a word."""


@pytest.fixture(scope="module")
def settings() -> Settings:
    """As the head reads them."""
    return validated(load_settings(COMPONENT / "ray.toml"))


def mounted(pod: dict[str, Any], container: dict[str, Any], path: str) -> dict[str, Any]:
    """The volume that is mounted there."""
    (name,) = [it["name"] for it in container["volumeMounts"] if it["mountPath"] == path]
    (volume,) = [it for it in pod["volumes"] if it["name"] == name]
    return dict(volume)


def port_of(container: dict[str, Any], name: str | int) -> int:
    """Of that name, as a service or a probe refers to it."""
    (port,) = [it["containerPort"] for it in container["ports"] if it["name"] == name]
    return int(port)


def test_the_settings_put_the_engines_on_this_cluster(settings: Settings) -> None:
    """With a GPU each, whatever the cluster has when `up` starts; and others than this pod may
    connect."""
    assert settings.engine.backend == "ray"
    assert settings.ray.address == "auto"
    assert settings.ray.num_gpus_per_replica == settings.engine.tensor_parallel_size
    assert settings.server.host == "0.0.0.0"


def test_who_finds_no_room_waits_at_the_router(settings: Settings) -> None:
    """It is the only one: it sends an engine as many as that runs at once."""
    assert settings.router.max_in_flight_per_replica == settings.engine.max_num_seqs is not None


def test_the_router_finds_its_settings_and_its_keys(settings: Settings) -> None:
    """Where the head mounts them."""
    command = ROUTER["args"][0].splitlines()[-1]
    path = Path(re.fullmatch(r"exec r1-serve up --config (\S+)", command)[1])
    volume = mounted(HEAD, ROUTER, str(path.parent))
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert volume["configMap"]["name"] == generated["name"]
    assert path.name in generated["files"]
    keys = Path(settings.server.keys_file or "")
    assert keys.name == "keys.toml"
    assert mounted(HEAD, ROUTER, str(keys.parent))["secret"]["secretName"] == "r1-serve-keys"


def test_the_ports_agree(settings: Settings) -> None:
    """From the service through the network policy and the probe to the router."""
    (port,) = OBJECTS["Service", "r1-serve"]["spec"]["ports"]
    assert port["port"] == 80
    assert port_of(ROUTER, port["targetPort"]) == settings.server.port
    (rule,) = OBJECTS["NetworkPolicy", "r1-serve-router"]["spec"]["ingress"]
    assert rule == {"ports": [{"protocol": "TCP", "port": settings.server.port}]}
    ready = ROUTER["readinessProbe"]["httpGet"]
    assert ready["path"] == "/ready"
    assert port_of(ROUTER, ready["port"]) == settings.server.port


def test_the_probes_need_nothing_but_ray_itself() -> None:
    """KubeRay adds its own where one is missing, and those need the dashboard's packages."""
    gcs = ROUTER["livenessProbe"]["tcpSocket"]["port"]
    assert port_of(ROUTER, gcs) == 6379, "KubeRay's default"
    assert "port" not in HEAD_GROUP["rayStartParams"]
    raylet = WORKER_GROUP["rayStartParams"]["node-manager-port"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert str(port_of(ENGINE, ENGINE[probe]["tcpSocket"]["port"])) == raylet


def test_the_labels_are_those_that_kuberay_gives() -> None:
    """The service selects the head; engines are reached from the same cluster only."""
    assert OBJECTS["Service", "r1-serve"]["spec"]["selector"] == HEAD_LABELS
    router = OBJECTS["NetworkPolicy", "r1-serve-router"]["spec"]
    assert router["podSelector"]["matchLabels"] == HEAD_LABELS
    cluster = OBJECTS["NetworkPolicy", "r1-serve-cluster"]["spec"]
    own = {"matchLabels": {"ray.io/cluster": HEAD_LABELS["ray.io/cluster"]}}
    assert cluster["podSelector"] == own
    assert cluster["ingress"] == [{"from": [{"podSelector": own}]}]
    assert router["policyTypes"] == cluster["policyTypes"] == ["Ingress"]


def test_the_versions_are_those_of_this_checkout() -> None:
    """KubeRay goes by `rayVersion`; all nodes of a Ray cluster need the same Ray."""
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements" / "ray.txt").read_text(), re.M)
    assert pinned is not None
    assert SPEC["rayVersion"] == pinned[1]
    assert ROUTER["image"] == ENGINE["image"] == f"r1-serve:{__version__}-gpu"


def test_both_groups_run_kuberays_command_themselves() -> None:
    """The annotation holds for the workers too. The router gets the head's signals, Ray the
    workers'."""
    assert CLUSTER["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    assert ROUTER["command"] == ENGINE["command"] == ["/bin/bash", "-c"]
    assert "\n$KUBERAY_GEN_RAY_START_CMD &\n" in ROUTER["args"][0]
    assert ENGINE["args"][0].endswith("; exec $KUBERAY_GEN_RAY_START_CMD")


def test_no_engine_lands_on_the_head_and_every_one_finds_a_gpu(settings: Settings) -> None:
    """As many workers as engines at the start, and as many as there may ever be."""
    assert HEAD_GROUP["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in ROUTER["resources"]["limits"]
    for amounts in ENGINE["resources"].values():
        assert int(amounts["nvidia.com/gpu"]) == settings.engine.tensor_parallel_size
    assert int(ENGINE["resources"]["requests"]["cpu"]) >= settings.ray.num_cpus_per_replica
    assert WORKER_GROUP["replicas"] == settings.engine.num_replicas
    assert WORKER_GROUP["minReplicas"] <= WORKER_GROUP["replicas"] <= WORKER_GROUP["maxReplicas"]
    assert (settings.autoscale.max_replicas or 1) <= WORKER_GROUP["maxReplicas"]


def test_the_pods_get_the_time_that_a_drain_takes(settings: Settings) -> None:
    """The head: pause, open replies, engines. A worker outlasts it, and Ray waits there as long."""
    pause_s = int(ROUTER["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = settings.server.drain_timeout_s + settings.engine.shutdown_timeout_s
    head_s = HEAD["terminationGracePeriodSeconds"]
    assert head_s > pause_s + drain_s + 2 * STOP_MARGIN_S
    worker_s = WORKER["terminationGracePeriodSeconds"]
    ray_waits_s = int(env(ENGINE)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert pause_s + drain_s + 2 * STOP_MARGIN_S < ray_waits_s < worker_s


@pytest.mark.parametrize("pod", [HEAD, WORKER], ids=["head", "worker"])
def test_pods_run_with_no_more_rights_than_they_need(pod: dict[str, Any]) -> None:
    """No root, no capabilities, no token of Kubernetes."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    contexts = [it["securityContext"] for it in pod["containers"]]
    for context in [*contexts, SPEC["autoscalerOptions"]["securityContext"]]:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_only_kuberays_autoscaler_gets_a_token_of_kubernetes() -> None:
    """It has the volume; the router beside it has not."""
    (mount,) = SPEC["autoscalerOptions"]["volumeMounts"]
    (volume,) = [it for it in HEAD["volumes"] if it["name"] == mount["name"]]
    assert "serviceAccountToken" in volume["projected"]["sources"][0]
    assert mount["name"] not in [it["name"] for it in ROUTER["volumeMounts"]]
    assert SPEC["authOptions"] == {"mode": "token"}, "Ray's own"


@pytest.mark.parametrize("level", KNOWN_KEYS)
def test_every_key_is_one_that_kuberay_knows(level: str) -> None:
    """Down to the pods' templates, which are Kubernetes' own."""
    found = {**SPEC, "spec": SPEC, "workerGroupSpecs": WORKER_GROUP}[level]
    assert set(found) <= set(KNOWN_KEYS[level].split())
    assert CLUSTER["apiVersion"] == "ray.io/v1"


def test_ray_start_gets_strings() -> None:
    """The only type that KubeRay takes there."""
    for group in (HEAD_GROUP, WORKER_GROUP):
        assert all(isinstance(it, str) for it in group["rayStartParams"].values())
