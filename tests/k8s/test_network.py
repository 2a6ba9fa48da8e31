"""Who reaches whom, worked out from the NetworkPolicies as Kubernetes does; who selects whom."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.k8s.manifests import ALL_ADDED, VARIANTS, WITH_ENGINES, Manifests, render, selects

Port = tuple[str, int]
OURS = {"app.kubernetes.io/name": "r1-serve"}


@dataclass(frozen=True)
class Peer:
    """One end of a connection; without labels, something outside the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "r1-serve"


def ours(component: str) -> Peer:
    return Peer({**OURS, "app.kubernetes.io/component": component})


ROUTER, ENGINE, DOWNLOADER = ours("router"), ours("engine"), ours("model-downloader")
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring")
STRANGER = Peer({"app": "stranger"}, "default")
NEIGHBOUR = Peer({"app": "stranger"})
OUTSIDE = Peer(namespace="")


def allowed(
    manifests: Manifests, source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Whether it gets through, by the policies of both ends."""
    to = (protocol, port)
    return _passes(manifests, source, target, to, "Egress") and _passes(
        manifests, target, source, to, "Ingress"
    )


def _passes(manifests: Manifests, pod: Peer, other: Peer, to: Port, direction: str) -> bool:
    """Pods that no policy selects are open; of others, one policy has to allow it."""
    if pod.namespace != "r1-serve":
        return True
    policies = [
        it["spec"]
        for it in manifests.of("NetworkPolicy")
        if direction in it["spec"]["policyTypes"]
        and selects(it["spec"]["podSelector"]["matchLabels"], pod.labels)
    ]
    peers = "to" if direction == "Egress" else "from"
    return not policies or any(
        _matches(rule, peers, other, to)
        for policy in policies
        for rule in policy.get(direction.lower(), [])
    )


def _matches(rule: dict[str, Any], peers: str, other: Peer, to: Port) -> bool:
    if "ports" in rule and to not in [(it["protocol"], it["port"]) for it in rule["ports"]]:
        return False
    return peers not in rule or any(_is(it, other) for it in rule[peers])


def _is(peer: dict[str, Any], other: Peer) -> bool:
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace}
        if not selects(peer["namespaceSelector"]["matchLabels"], labels):
            return False
    elif other.namespace != "r1-serve":
        return False
    return selects(peer["podSelector"]["matchLabels"], other.labels)


@pytest.mark.parametrize("variant", [*WITH_ENGINES, ALL_ADDED])
@pytest.mark.parametrize(
    ("source", "port"),
    [(STRANGER, 8000), (NEIGHBOUR, 8000), (OUTSIDE, 8000), (DOWNLOADER, 8000), (ENGINE, 8000)],
    ids=["stranger", "neighbour", "outside", "downloader", "engine"],
)
def test_nobody_else_reaches_an_engine(variant: str, source: Peer, port: int) -> None:
    """It asks nobody for a key."""
    assert not allowed(render(variant), source, ENGINE, port)


@pytest.mark.parametrize("variant", [*WITH_ENGINES, ALL_ADDED])
def test_routers_and_the_scraper_reach_the_engines(variant: str) -> None:
    """On the one port that vLLM has."""
    manifests = render(variant)
    assert allowed(manifests, ROUTER, ENGINE, 8000)
    assert allowed(manifests, PROMETHEUS, ENGINE, 8000)
    assert not allowed(manifests, ROUTER, ENGINE, 22)


@pytest.mark.parametrize("variant", [*WITH_ENGINES, ALL_ADDED])
def test_everyone_reaches_the_router(variant: str) -> None:
    """On its port and no other."""
    manifests = render(variant)
    for source in (STRANGER, NEIGHBOUR, OUTSIDE, PROMETHEUS):
        assert allowed(manifests, source, ROUTER, 8000)
        assert not allowed(manifests, source, ROUTER, 9000)


@pytest.mark.parametrize("variant", [*WITH_ENGINES, ALL_ADDED])
def test_only_the_downloader_gets_out(variant: str) -> None:
    """Engines resolve names at most; the router sends traces to a collector."""
    manifests = render(variant)
    assert not allowed(manifests, ENGINE, OUTSIDE, 443)
    assert not allowed(manifests, ROUTER, OUTSIDE, 443)
    assert allowed(manifests, ROUTER, OUTSIDE, 4318)
    assert not allowed(manifests, ENGINE, OUTSIDE, 4318)
    for pod, protocol in itertools.product((ROUTER, ENGINE, DOWNLOADER), ("UDP", "TCP")):
        assert allowed(manifests, pod, OUTSIDE, 53, protocol), "a long answer of DNS comes by TCP"
    if "r1-model-downloader" in dict(manifests.pods()):
        assert allowed(manifests, DOWNLOADER, OUTSIDE, 443)


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_selects_pods_finds_some(variant: str) -> None:
    """Services, budgets and policies; a typo in a label would do nothing, silently."""
    manifests = render(variant)
    labels = [it.get("metadata", {}).get("labels", {}) for _, it in manifests.pods()]
    labels += [
        {"ray.io/cluster": it["metadata"]["name"], "ray.io/node-type": "head"}
        for it in manifests.of("RayCluster")
    ]
    selectors = [it["spec"]["selector"] for it in manifests.of("Service")]
    selectors += [it["spec"]["podSelector"]["matchLabels"] for it in manifests.of("NetworkPolicy")]
    for kind in ("PodDisruptionBudget", "PodMonitor", "ServiceMonitor"):
        selectors += [it["spec"]["selector"]["matchLabels"] for it in manifests.of(kind)]
    for selector in selectors:
        assert any(selects(selector, it) for it in labels), selector


@pytest.mark.parametrize("variant", VARIANTS)
def test_replicas_spread_over_nodes_without_counting_the_old_ones(variant: str) -> None:
    """By the labels of their own Deployment, and never so that one can't be placed."""
    for deployment in render(variant).of("Deployment"):
        spread = deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        assert (deployment["spec"].get("replicas", 2) > 1) <= bool(spread)
        for constraint in spread:
            assert constraint["labelSelector"] == deployment["spec"]["selector"]
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
            assert constraint["matchLabelKeys"] == ["pod-template-hash"]
