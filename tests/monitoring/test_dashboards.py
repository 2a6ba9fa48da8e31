"""Dashboards: what Grafana needs of their JSON, and what a reader needs of a panel."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.monitoring.support import DASHBOARDS, dashboard, panels

UNITS = {"bytes", "ops", "percentunit", "reqps", "s", "short"}
pytestmark = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def test_it_can_be_provisioned(path: Path) -> None:
    """By file or by ConfigMap: no `id`, no inputs to fill in, any Prometheus, an address that
    stays."""
    board = dashboard(path)
    assert board["uid"] == f"r1-serve-{path.stem}"
    assert "id" not in board
    assert "__inputs" not in board
    assert board["schemaVersion"] >= 41
    source, namespace, *_ = board["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert (namespace["name"], namespace["includeAll"]) == ("namespace", True)
    for panel in panels(path):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_all_namespaces_are_also_none(path: Path) -> None:
    """Outside Kubernetes no series has that label; `.*` matches its absence, `.+` wouldn't."""
    for variable in dashboard(path)["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["allValue"] == ".*"
    for panel in panels(path):
        for target in panel["targets"]:
            selectors = target["expr"].count("{")
            assert target["expr"].count('{namespace=~"$namespace"') == selectors > 0


def test_each_panel_can_be_read(path: Path) -> None:
    """A title, a sentence that says what it shows, a unit, and a name for each line."""
    titles = [panel["title"] for panel in panels(path)]
    assert len(set(titles)) == len(titles)
    for panel in panels(path):
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert all(target["legendFormat"] for target in panel["targets"])
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        if panel["type"] == "stat":
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]


def test_panels_lie_beside_one_another(path: Path) -> None:
    everything = dashboard(path)["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    covered = [
        (x, y)
        for at in (panel["gridPos"] for panel in everything)
        for x, y in itertools.product(
            range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        )
    ]
    assert len(set(covered)) == len(covered)
    assert all(x < 24 for x, _ in covered)
