"""Alerts: that they fire when they should and say what to do; both forms of them are the same."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.k8s.manifests import render
from tests.monitoring.support import ALERTS, DASHBOARDS, MONITORING, promtool, rules

TESTS = Path(__file__).parent / "alerts_test.yaml"


def test_the_rules_are_sound() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint=all", ALERTS)


def test_each_alert_fires_when_it_should_and_not_else() -> None:
    promtool("test", "rules", TESTS)


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    text = TESTS.read_text(encoding="utf-8")
    fires = {
        name
        for expr, samples in re.findall(r"expr: '(.*?)', .*?exp_samples: \[(.*)\]\}$", text, re.M)
        for name in re.findall(r'alertname=~?"([^"]+)"', expr)
        if samples
    }
    for rule in rules():
        assert any(re.fullmatch(pattern, rule["alert"]) for pattern in fires), rule["alert"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_where_its_remedy_stands(rule: dict[str, Any]) -> None:
    """tests/test_docs.py follows the link."""
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])


def test_every_alert_is_documented() -> None:
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(R1\w+)` \| (\w+) \|", text, re.M))
    assert rows == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}


def test_the_operators_rule_is_the_file_of_alerts() -> None:
    """Written by scripts/prometheus_rule.py, which is to run after a change."""
    path = MONITORING / "prometheus-rule.yaml"
    written = path.read_text(encoding="utf-8")
    script = runpy.run_path(str(ROOT / "scripts" / "prometheus_rule.py"))
    assert written == script["prometheus_rule"](ALERTS.read_text(encoding="utf-8"))
    assert yaml.safe_load(written)["spec"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))


def test_links_to_the_runbook_can_be_made_whole() -> None:
    """Once and again, as the repository moves."""
    script = runpy.run_path(str(ROOT / "scripts" / "prometheus_rule.py"))
    alerts = ALERTS.read_text(encoding="utf-8")
    for base in ("https://a.example/r1/", "https://b.example/r1"):
        alerts = script["with_runbook"](alerts, base)
    assert alerts.count("https://b.example/r1/docs/runbook.md#") == len(rules())
    assert "a.example" not in alerts


# --- Kubernetes ---------------------------------------------------------------------------------


def test_prometheus_is_told_to_ask_every_router_and_engine() -> None:
    """Pods with the monitors' labels have the port's name; jobs are those that alerts name."""
    manifests = render("gpu+monitoring")
    for name in ("r1-router", "r1-engine"):
        monitor = manifests.one("PodMonitor", name)["spec"]
        template = manifests.pod(name)
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        (endpoint,) = monitor["podMetricsEndpoints"]
        (container,) = template["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
        assert endpoint["path"] == "/metrics"
        assert {"targetLabel": "job", "replacement": name} in endpoint["relabelings"]
        assert any(f'job="{name}"' in rule["expr"] for rule in rules())


def test_grafana_finds_the_dashboards() -> None:
    """By the label that its sidecar looks for; each as it stands in its file."""
    manifests = render("gpu+monitoring")
    found = {
        file: text
        for it in manifests.of("ConfigMap")
        if it["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for file, text in it["data"].items()
    }
    assert found == {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS}


def test_prometheus_reaches_the_engines() -> None:
    """They are closed to everyone else, and its namespace is the one that kube-prometheus-stack is
    usually in."""
    policy = render("gpu+monitoring").one("NetworkPolicy", "r1-engine")["spec"]
    sources = [source for rule in policy["ingress"] for source in rule["from"]]
    label = {"kubernetes.io/metadata.name": "monitoring"}
    assert any(it.get("namespaceSelector", {}).get("matchLabels") == label for it in sources)
