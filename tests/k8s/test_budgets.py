"""The times of the manifests form one budget: starts, ends and rollouts lose no request.

What a pod's end takes, from the moment Kubernetes decides it:

    engine   its address leaves the Service, the cluster's DNS, each router's list: preStop
             SIGTERM, then what runs may end: --shutdown-timeout
             what is left goes on, on another engine; the processes end: a margin
    router   balancers take it out: preStop
             SIGTERM, then open replies may end: server.drain_timeout_s
             error events reach the clients of the others: LAST_WORDS_S, LAST_CALL_S
"""

from __future__ import annotations

from typing import Any

import pytest

from serve.discovery import RESOLVE_INTERVAL_S
from serve.engine_keeper import STOP_MARGIN_S
from serve.server import LAST_CALL_S, LAST_WORDS_S
from tests.k8s.manifests import WITH_ENGINES, Manifests, main_container, render

ENDPOINTS_S = 5
"""For the endpoint's removal to reach DNS, kube-proxy and balancers: usually below one."""
DNS_CACHE_S = 30
"""kubeadm's CoreDNS answers with this TTL, node-local caches hold as long; CoreDNS's own is 5."""
MARGIN_S = 5


@pytest.fixture(params=WITH_ENGINES)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return render(request.param)


def pre_stop_s(template: dict[str, Any]) -> float:
    return float(main_container(template)["lifecycle"]["preStop"]["sleep"]["seconds"])


def patience_s(probe: dict[str, Any]) -> float:
    """How long a pod may hang. One probe comes after the other, so with a limit above the period
    each takes as long as the limit."""
    each_s = max(probe["periodSeconds"], probe["timeoutSeconds"])
    return float(each_s * probe["failureThreshold"])


def refused_s(probe: dict[str, Any]) -> float:
    """How long nothing may listen, so that each probe fails at once."""
    return float(probe["periodSeconds"] * probe["failureThreshold"])


def known_s(manifests: Manifests) -> float:
    """Until every router knows an engine that came, or no longer knows one that goes."""
    return float(ENDPOINTS_S + DNS_CACHE_S + RESOLVE_INTERVAL_S)


def test_an_engine_goes_on_until_no_router_knows_it(manifests: Manifests) -> None:
    """A draining vLLM answers new requests with 500."""
    assert pre_stop_s(manifests.pod("r1-engine")) > known_s(manifests)


def test_an_engine_has_the_time_to_end_what_it_runs(manifests: Manifests) -> None:
    """It is killed only after its own limit, and what its processes take to end."""
    template = manifests.pod("r1-engine")
    drain_s = manifests.settings().engine.shutdown_timeout_s
    grace_s = template["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= pre_stop_s(template) + drain_s + STOP_MARGIN_S + MARGIN_S


def test_a_router_has_the_time_to_drain(manifests: Manifests) -> None:
    """And to tell the rest why their stream ends."""
    template = manifests.pod("r1-router")
    drain_s = manifests.settings().server.drain_timeout_s + LAST_WORDS_S + LAST_CALL_S
    grace_s = template["spec"]["terminationGracePeriodSeconds"]
    assert pre_stop_s(template) > ENDPOINTS_S
    assert grace_s >= pre_stop_s(template) + drain_s + MARGIN_S


def test_graces_stay_below_what_autoscalers_of_nodes_allow(manifests: Manifests) -> None:
    """The cluster autoscaler waits 600 s for a pod (--max-graceful-termination-sec)."""
    for name, template in manifests.pods():
        assert template["spec"].get("terminationGracePeriodSeconds", 30) <= 600, name


def test_a_start_may_take_as_long_as_the_settings_say(manifests: Manifests) -> None:
    """Weights, compilation and graphs; liveness looks only after that."""
    engine = main_container(manifests.pod("r1-engine"))
    assert refused_s(engine["startupProbe"]) >= manifests.settings().engine.startup_timeout_s
    assert engine["startupProbe"]["httpGet"] == engine["livenessProbe"]["httpGet"]


def test_the_next_old_engine_goes_once_the_new_one_has_requests(manifests: Manifests) -> None:
    """Else, of two engines, there is a moment without any that the routers know."""
    deployment = manifests.one("Deployment", "r1-engine")["spec"]
    probed_s = manifests.settings().router.probe_interval_s
    assert deployment["minReadySeconds"] >= known_s(manifests) + probed_s


def test_a_rollout_isnt_called_stuck_while_it_goes_on(manifests: Manifests) -> None:
    """The old engine's end, a download, and the new one's start are one step of it; the first
    routers are ready after that."""
    deployment = manifests.one("Deployment", "r1-engine")["spec"]
    grace_s = manifests.pod("r1-engine")["spec"]["terminationGracePeriodSeconds"]
    start_s = patience_s(main_container(manifests.pod("r1-engine"))["startupProbe"])
    step_s = grace_s + start_s + deployment["minReadySeconds"]
    assert deployment["progressDeadlineSeconds"] > step_s + 600
    router = manifests.one("Deployment", "r1-router")["spec"]
    assert router["progressDeadlineSeconds"] >= deployment["progressDeadlineSeconds"]


@pytest.mark.parametrize("name", ["r1-engine", "r1-router"])
def test_a_busy_pod_isnt_killed(manifests: Manifests, name: str) -> None:
    """It is taken out of rotation long before, and both take more than one late answer."""
    container = main_container(manifests.pod(name))
    ready, live = container["readinessProbe"], container["livenessProbe"]
    assert refused_s(live) >= 120
    assert refused_s(live) >= 3 * patience_s(ready)
    assert ready["timeoutSeconds"] >= 5
    assert ready["failureThreshold"] >= 3
    assert live["timeoutSeconds"] >= 15


def test_probes_ask_what_they_mean(manifests: Manifests) -> None:
    """A router without engines, or one that drains, lives, but can't serve."""
    router = main_container(manifests.pod("r1-router"))
    assert router["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert router["startupProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert router["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    engine = main_container(manifests.pod("r1-engine"))
    assert engine["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}


def test_engines_are_replaced_without_a_spare_gpu() -> None:
    """And never more than one of them; a router comes before one goes."""
    engine = render("gpu").one("Deployment", "r1-engine")["spec"]
    assert engine["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    router = render("gpu").one("Deployment", "r1-router")["spec"]
    assert router["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert min(engine["replicas"], router["replicas"]) >= 2


def test_one_box_has_no_room_for_two() -> None:
    """So there the old pod goes first, and no budget holds up the node."""
    manifests = render("edge")
    for name in ("r1-engine", "r1-router"):
        deployment = manifests.one("Deployment", name)["spec"]
        assert deployment["strategy"] == {"type": "Recreate"}
        assert deployment["replicas"] == 1
    assert not manifests.of("PodDisruptionBudget")


def test_the_only_engine_on_a_cpu_is_replaced_without_a_gap() -> None:
    """There is room for two of them."""
    engine = render("dev").one("Deployment", "r1-engine")["spec"]
    assert engine["replicas"] == 1
    assert engine["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_drained_node_takes_one_pod_at_a_time() -> None:
    """Of each kind; one that can't start holds up nobody."""
    manifests = render("gpu")
    for name in ("r1-engine", "r1-router"):
        budget = manifests.one("PodDisruptionBudget", name)["spec"]
        deployment = manifests.one("Deployment", name)["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert budget["selector"] == deployment["selector"]
