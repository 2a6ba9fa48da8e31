"""docs/observability.md lists what the router exports: each metric, its type and its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from serve.telemetry import Labelled, Telemetry
from tests.conftest import ROOT
from tests.support import running_router

Table = Mapping[str, tuple[str, frozenset[str]]]
"""Name → type and labels."""


def documented() -> Table:
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(r1_\w+)` \| (\w+) \|(.*?)\| .* \|$", text, re.M)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def sample_names(table: Table) -> dict[str, frozenset[str]]:
    """The names that Prometheus stores, with their labels."""
    found = {}
    for name, (kind, labels) in table.items():
        if kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found |= {f"{name}_count": labels, f"{name}_sum": labels}
        else:
            found[name] = labels
    return found


async def exported() -> Table:
    """Declared label names, and what is read from the state of a running router."""
    async with running_router("http://127.0.0.1:9", wait_ready=False) as router:
        telemetry = router.router.telemetry
        declared = {
            _full_name(metric): frozenset(metric._labelnames)
            for metric in (it._metric for it in _labelled(telemetry))
        }
        page = (await router.http.get("/metrics")).text
    found = {}
    for family in text_string_to_metric_families(page):
        name = family.name + "_total" * (family.type == "counter")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, declared.get(name, frozenset(labels)))
    return found


def _labelled(telemetry: Telemetry) -> list[Labelled[Any]]:
    return [value for value in vars(telemetry).values() if isinstance(value, Labelled)]


def _full_name(metric: Any) -> str:
    return str(metric._name) + "_total" * (metric._type == "counter")


async def test_the_table_of_metrics_is_what_the_router_exports() -> None:
    assert documented() == await exported()
