"""k8s/components: the model's volume, autoscaling, and the ways in from outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from serve import __version__
from serve.access import NEEDS_NO_KEY
from serve.models.store import MANIFEST
from serve.router import build_app
from serve.settings import AutoscaleSettings, RouterSettings, Settings
from tests.k8s.manifests import Manifests, containers, main_container, mounted, port_of, render

MODEL = "/models/DeepSeek-R1-Distill-Qwen-1.5B"


@pytest.mark.parametrize("variant", ["edge", "gpu"])
def test_engines_serve_what_the_job_pulls(variant: str) -> None:
    """To the same directory of the same volume, which they only read."""
    manifests = render(variant)
    job, engine = manifests.pod("r1-model-downloader"), manifests.pod("r1-engine")
    assert main_container(job)["command"][-1] == MODEL
    assert main_container(engine)["args"][0] == MODEL == manifests.settings().engine.model
    claims = {
        mounted(template, container, "/models")["persistentVolumeClaim"]["claimName"]
        for template in (job, engine)
        for container in containers(template)
    }
    assert claims == {"r1-models"}
    assert manifests.one("PersistentVolumeClaim", "r1-models")
    for container in containers(engine):
        (mount,) = [it for it in container["volumeMounts"] if it["mountPath"] == "/models"]
        assert mount["readOnly"] is True


@pytest.fixture(params=["edge", "gpu"])
def wait(request: pytest.FixtureRequest) -> list[str]:
    """The command by which an engine waits, but for the directory: a Job and a Deployment have no
    order among them. The pull writes its manifest last."""
    (container,) = render(request.param).pod("r1-engine")["spec"]["initContainers"]
    *command, directory = container["command"]
    assert directory == MODEL
    assert f'until test -f "$0/{MANIFEST}";' in command[-1]
    return command


def test_the_wait_ends_with_the_pull(wait: list[str], tmp_path: Path) -> None:
    """Run on a directory that a pull completes meanwhile."""
    sh, c, script = wait
    command = [sh, c, script.replace("sleep 10", "sleep 0.05"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == f"waiting for {tmp_path}\n"
        (tmp_path / MANIFEST).touch()
        assert waiting.wait(timeout=30) == 0


def test_the_wait_heeds_sigterm(wait: list[str], tmp_path: Path) -> None:
    """As process 1, to which the kernel gives only signals that it has asked for. Else a pod that
    waits for a wrong model would stay for its whole grace."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False).returncode
    ):
        reason = "no right to make a process 1 (it takes root)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    command = [*unshare, *wait, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == f"waiting for {tmp_path}\n"
        first = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text()
        os.kill(int(first), signal.SIGTERM)
        try:
            assert outer.wait(timeout=8) == 143, "sooner than it would look again"
        finally:
            outer.kill()


@pytest.mark.parametrize("variant", ["edge", "gpu"])
def test_the_files_belong_to_who_reads_them(variant: str) -> None:
    """Else each mount would change the group of them all, back and forth."""
    manifests = render(variant)
    contexts = [
        manifests.pod(name)["spec"]["securityContext"]
        for name in ("r1-engine", "r1-model-downloader")
    ]
    assert contexts[0] == contexts[1]


def test_the_next_version_finds_no_job_in_its_way() -> None:
    """A Job's pods can't be changed, so that `apply` would fail. What the pull said stays."""
    (job,) = render("gpu").of("Job")
    assert job["metadata"]["name"] == f"r1-model-downloader-{__version__.replace('.', '-')}"
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_one_box_keeps_the_model_on_its_own_disk() -> None:
    """In k3s's class of volumes, which one node mounts."""
    claim = render("edge").one("PersistentVolumeClaim", "r1-models")["spec"]
    assert claim["storageClassName"] == "local-path"
    assert claim["accessModes"] == ["ReadWriteOnce"]
    shared = render("gpu").one("PersistentVolumeClaim", "r1-models")["spec"]
    assert shared["accessModes"] == ["ReadWriteMany"]


def test_engines_are_scaled_by_their_requests() -> None:
    """Running and waiting, by the number that `r1-serve up` scales by, too."""
    manifests = render("gpu+autoscaling-keda")
    (scaled,) = manifests.of("ScaledObject")
    spec = scaled["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    query = trigger["metadata"]["query"]
    assert {"vllm:num_requests_running", "vllm:num_requests_waiting", "r1_queue_depth"} == set(
        re.findall(r"sum\(([a-z0-9_:]+)", query)
    )
    assert set(re.findall(r'namespace="([^"]*)"', query)) == {"r1-serve"}
    target = AutoscaleSettings().target_requests_per_replica
    assert float(trigger["metadata"]["threshold"]) == target
    assert trigger["metricType"] == "AverageValue"
    assert target < (manifests.settings().engine.max_num_seqs or 0), "else it adds one too late"


def test_prometheus_that_is_gone_scales_nothing_down() -> None:
    """No data is an error, and then the number stays."""
    (scaled,) = render("gpu+autoscaling-keda").of("ScaledObject")
    spec = scaled["spec"]
    assert spec["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] == spec["minReplicaCount"]


def test_an_apply_leaves_the_number_to_the_autoscaler() -> None:
    """A number in the Deployment would set it back each time."""
    manifests = render("gpu+autoscaling-keda")
    (scaled,) = manifests.of("ScaledObject")
    target = scaled["spec"]["scaleTargetRef"]["name"]
    assert "replicas" not in manifests.one("Deployment", target)["spec"]
    assert scaled["spec"]["minReplicaCount"] >= 2


WAYS_IN = ["edge", "gpu+ingress", "gpu+gateway"]


def published(manifests: Manifests) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind of match, path and backend of every way in from outside."""
    found = []
    for ingress in manifests.of("Ingress"):
        assert "defaultBackend" not in ingress["spec"]
        for rule in ingress["spec"]["rules"]:
            for it in rule["http"]["paths"]:
                found.append((it["pathType"], it["path"], it["backend"]["service"]))
    for route in manifests.of("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            (backend,) = rule["backendRefs"]
            found += [(it["path"]["type"], it["path"]["value"], backend) for it in rule["matches"]]
    return found


def is_published(manifests: Manifests, path: str) -> bool:
    """As Kubernetes compares: prefixes by whole elements."""
    return any(
        path == to or ("Prefix" in kind and path.startswith(to.rstrip("/") + "/"))
        for kind, to, _ in published(manifests)
    )


@pytest.mark.parametrize("variant", WAYS_IN)
def test_the_ways_in_lead_to_the_router(variant: str) -> None:
    """To a port that its Service has."""
    manifests = render(variant)
    (port,) = manifests.one("Service", "r1-router")["spec"]["ports"]
    backends = [backend for _, _, backend in published(manifests)]
    assert backends
    for backend in backends:
        assert backend["name"] == "r1-router"
        assert backend["port"] in ({"name": port["name"]}, port["port"])


@pytest.mark.parametrize("variant", WAYS_IN)
def test_from_outside_everything_but_the_playground_asks_for_a_key(variant: str) -> None:
    """What clients call is reached, the page for them too; metrics, the API's description and the
    replicas' addresses are for those inside."""
    manifests = render(variant)
    settings = Settings(router=RouterSettings(engine_urls=["http://127.0.0.1:9"]))
    inside = {"/", "/replicas", *NEEDS_NO_KEY} - {"/ui"}
    for path in inside | build_app(settings).openapi()["paths"].keys():
        assert is_published(manifests, path) is (path not in inside), path


@pytest.mark.parametrize("variant", ["edge", "gpu+ingress"])
def test_the_ingress_takes_keys_over_tls_alone(variant: str) -> None:
    """Of Traefik it takes annotations, of ingress-nginx a host with a certificate."""
    ingress = render(variant).one("Ingress", "r1-router")
    notes = ingress["metadata"]["annotations"]
    assert notes["traefik.ingress.kubernetes.io/router.entrypoints"] == "websecure"
    assert notes["traefik.ingress.kubernetes.io/router.tls"] == "true"
    assert notes["nginx.ingress.kubernetes.io/force-ssl-redirect"] == "true"
    (tls,) = ingress["spec"]["tls"]
    assert tls["secretName"] == "r1-serve-tls"
    assert tls["hosts"] == [rule["host"] for rule in ingress["spec"]["rules"]]


def test_the_route_is_attached_to_the_listener_with_tls() -> None:
    """And to no other of that Gateway."""
    route = render("gpu+gateway").one("HTTPRoute", "r1-router")
    assert route["spec"]["parentRefs"] == [{"name": "r1-serve", "sectionName": "https"}]


def test_streams_pass_unbuffered_and_to_their_end() -> None:
    """The router is the one who ends what is silent for too long."""
    manifests = render("gpu+gateway+ingress")
    settings = manifests.settings()
    silent_s = settings.router.idle_timeout_s + settings.router.queue_timeout_s
    notes = manifests.one("Ingress", "r1-router")["metadata"]["annotations"]
    nginx = {key.rpartition("/")[2]: value for key, value in notes.items()}
    assert nginx["proxy-buffering"] == nginx["proxy-next-upstream"] == "off"
    assert float(nginx["proxy-read-timeout"]) > silent_s
    assert nginx["proxy-body-size"] == f"{settings.server.max_body_bytes // 2**20}m"
    (rule,) = manifests.one("HTTPRoute", "r1-router")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "1h", "backendRequest": "1h"}


def test_prometheus_is_asked_where_the_policies_let_it_in() -> None:
    """The scraper that may reach the engines is the one that KEDA asks."""
    (scaled,) = render("gpu+autoscaling-keda").of("ScaledObject")
    host = urlsplit(scaled["spec"]["triggers"][0]["metadata"]["serverAddress"]).hostname or ""
    assert host.split(".")[1] == "monitoring"


def test_on_ray_the_head_is_asked_as_the_router() -> None:
    """By KubeRay's labels, at a port that it has; alerts and dashboards are the same."""
    on_ray, plain = render("gpu-ray+monitoring-ray"), render("gpu+monitoring")
    (monitor,) = on_ray.of("PodMonitor")
    labels = {"ray.io/cluster": "r1-serve", "ray.io/node-type": "head"}
    assert monitor["spec"]["selector"] == {"matchLabels": labels}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert port_of(main_container(on_ray.pod("ray-head")), endpoint["port"]) == 8000
    assert {"targetLabel": "job", "replacement": "r1-router"} in endpoint["relabelings"]
    assert on_ray.of("PrometheusRule") == plain.of("PrometheusRule")
    dashboards = [
        {it["metadata"]["name"] for it in manifests.of("ConfigMap")} - {"r1-serve"}
        for manifests in (on_ray, plain)
    ]
    assert dashboards[0]
    assert dashboards[0] <= dashboards[1]
