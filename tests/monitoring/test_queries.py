"""No dashboard, alert, autoscaler or page names a metric or a label that nobody exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import ROOT, RunningEngine
from tests.monitoring.support import (
    ALERTS,
    DASHBOARDS,
    OUTSIDE,
    Exported,
    Query,
    exported,
    panel_queries,
    problems,
    promtool,
    rules,
    variable_queries,
)
from tests.monitoring.test_metrics_table import documented, sample_names


def autoscaling_queries() -> Iterator[Query]:
    """Every text in a manifest that names a metric: KEDA's triggers, an HPA's metrics."""
    for path in sorted((ROOT / "k8s").rglob("*.yaml")):
        if path.parent != ALERTS.parent:
            for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                for where, text in texts(document, path.stem):
                    if "vllm:" in text or "r1_" in text:
                        yield Query(where, text)


def texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, where)


def alert_queries() -> Iterator[Query]:
    """Expressions, with the labels that their texts show."""
    for rule in rules():
        shown = " ".join(rule["annotations"].values())
        yield Query(f"alert {rule['alert']}", rule["expr"], shown.replace("$value", ""))


def written_queries() -> Iterator[Query]:
    """Those that the documentation tells people to ask, a line each."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"```promql\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            for line in block.splitlines():
                if line and not line.startswith("#"):
                    yield Query(f"docs/{path.name}", line)


def board_queries() -> Iterator[Query]:
    for path in DASHBOARDS:
        yield from panel_queries(path)
        yield from variable_queries(path)


def all_queries() -> list[Query]:
    return [*board_queries(), *alert_queries(), *autoscaling_queries(), *written_queries()]


def of_router() -> Exported:
    """The table that is held against the running router, and what others export."""
    return {**OUTSIDE, **sample_names(documented())}


def test_the_router_exports_what_is_asked_of_it() -> None:
    queries = [it for it in all_queries() if "vllm:" not in it.expr]
    assert problems(queries, of_router()) == []


@pytest.mark.engine
def test_vllm_exports_what_is_asked_of_it(engine: RunningEngine) -> None:
    of_engine = exported(httpx.get(f"{engine.url}/metrics").text)
    assert problems(all_queries(), {**of_engine, **of_router()}) == []


def test_each_query_is_promql(tmp_path: Path) -> None:
    """Each made the expression of a rule: promtool parses no bare query. Alerts it reads as they
    are."""
    queries = [*board_queries(), *written_queries()]
    recorded = [
        {"record": f"q{number}", "expr": query.filled("1m")} for number, query in enumerate(queries)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": recorded}]}))
    promtool("check", "rules", "--lint=none", path)


def test_queries_are_filled_in_as_grafana_does() -> None:
    query = Query("here", 'rate(x{namespace=~"$namespace", preset=~"${preset}"}[$__rate_interval])')
    assert query.filled("1m") == 'rate(x{namespace=~".*", preset=~".*"}[1m])'


def test_there_are_queries_of_each_kind() -> None:
    """So that none of the above passes for want of any."""
    assert len(list(autoscaling_queries())) >= 1
    assert len(list(alert_queries())) >= 15
    assert len(list(written_queries())) >= 5
    assert all(len(list(panel_queries(path))) >= 15 for path in DASHBOARDS)
    assert {path.stem for path in DASHBOARDS} == {"overview", "thinking", "fleet"}


@pytest.mark.parametrize(
    ("expr", "legend", "complaint"),
    [
        ("sum(rate(r1_request_total[5m]))", "", "nothing exports r1_request_total"),
        ('sum(r1_in_flight{preset="x"})', "", "r1_in_flight has no label ['preset']"),
        ("sum by (kind) (r1_in_flight)", "", "nothing in it has a label kind"),
        ("r1_in_flight", "{{preset}}", "nothing in it has a label preset"),
        ("rate(r1_queue_seconds[5m])", "", "nothing exports r1_queue_seconds"),
        ("kube_deployment_replicas", "", "nothing exports kube_deployment_replicas"),
    ],
)
def test_a_wrong_name_is_found(expr: str, legend: str, complaint: str) -> None:
    assert problems([Query("here", expr, legend)], of_router()) == [f"here: {complaint}"]


def test_labels_that_prometheus_adds_may_be_used() -> None:
    expr = 'sum by (namespace, instance, le) (r1_request_seconds_bucket{job="x", le="2.5"})'
    assert problems([Query("here", expr, "{{instance}}")], of_router()) == []
