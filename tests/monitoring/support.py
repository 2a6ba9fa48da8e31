"""What these tests share: dashboards and alerts, what a query names, and Prometheus itself."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from serve.engine_process import free_port
from tests.conftest import ROOT
from tests.support import program

MONITORING = ROOT / "k8s" / "components" / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
ALERTS = MONITORING / "alerts.yaml"


def promtool(*arguments: str | Path) -> str:
    """What it says; a complaint fails the test."""
    command = [program("promtool", package="prometheus"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- dashboards and alerts ----------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """A PromQL expression and where it stands."""

    where: str
    expr: str
    legend: str = ""

    def filled(self, window: str) -> str:
        """As Grafana sends it, with All for each variable."""
        expr = self.expr.replace("$__rate_interval", window)
        return re.sub(r"\$\{?(namespace|preset)\}?", ".*", expr)


def dashboard(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return board


def panels(path: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def panel_queries(path: Path) -> Iterator[Query]:
    for panel in panels(path):
        for target in panel["targets"]:
            where = f"{path.stem}: {panel['title']} {target['refId']}"
            yield Query(where, target["expr"], target["legendFormat"])


def variable_queries(path: Path) -> Iterator[Query]:
    """What fills the choices of a dashboard's variables: `label_values(SELECTOR, LABEL)`."""
    for variable in dashboard(path)["templating"]["list"]:
        if variable["type"] == "query":
            text = variable["query"]["query"]
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
            assert found, text
            where = f"{path.stem}: ${variable['name']}"
            yield Query(where, f"sum by ({found[2]}) ({found[1]})")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


# --- what a query names -------------------------------------------------------------------------

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_METRIC = re.compile(r"\b((?:r1_|vllm:|kube_)[a-zA-Z0-9_:]+|up)\b(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right) ?\(([^)]*)\)")
OF_TARGETS = frozenset({"job", "instance", "namespace", "pod", "container", "endpoint"})
"""Labels that Prometheus puts on what it scrapes."""


class Named(NamedTuple):
    """A metric in a query, with the labels asked of it: in its selector, and in the query around
    it."""

    metric: str
    own: frozenset[str]
    around: frozenset[str]


def named(query: Query) -> list[Named]:
    text = _STRING.sub('""', query.expr)
    around = {label for found in _GROUPED.findall(text) for label in _labels(found)}
    around |= set(re.findall(r"{{\s*(?:\$labels\.)?(\w+)\s*}}", query.legend))
    return [
        Named(metric, _labels(re.sub(r'(=~|!~|!=|=)""', "", selector)), frozenset(around))
        for metric, selector in _METRIC.findall(text)
    ]


def _labels(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


Exported = Mapping[str, frozenset[str]]
"""Sample name → its labels."""
_OF_A_DEPLOYMENT = frozenset({"namespace", "deployment"})
OUTSIDE: Exported = {
    "up": frozenset(),
    "kube_deployment_spec_replicas": _OF_A_DEPLOYMENT,
    "kube_deployment_status_replicas_available": _OF_A_DEPLOYMENT,
    "kube_deployment_status_replicas_updated": _OF_A_DEPLOYMENT,
    "kube_pod_container_status_restarts_total": frozenset({"namespace", "pod", "container"}),
}
"""What may be asked of others: Prometheus itself, and kube-state-metrics, by its documentation."""


def exported(exposition: str) -> Exported:
    """All that a page of metrics has."""
    found: dict[str, frozenset[str]] = {}
    for line in exposition.splitlines():
        sample = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+", line)
        if sample:
            names = frozenset(re.findall(r'(\w+)="', sample[2] or ""))
            found[sample[1]] = found.get(sample[1], frozenset()) | names
    return found


def problems(queries: Iterable[Query], there: Exported) -> list[str]:
    """Names of metrics, and of their labels, that nothing exports."""
    found = []
    for query in queries:
        mentioned = named(query)
        for it in mentioned:
            if it.metric not in there:
                found.append(f"{query.where}: nothing exports {it.metric}")
            elif missing := it.own - there[it.metric] - OF_TARGETS:
                found.append(f"{query.where}: {it.metric} has no label {sorted(missing)}")
        known = {label for it in mentioned for label in there.get(it.metric, ())}
        around = {label for it in mentioned for label in it.around}
        for label in sorted(around - known - OF_TARGETS):
            found.append(f"{query.where}: nothing in it has a label {label}")
    return found


# --- Prometheus ---------------------------------------------------------------------------------


class Prometheus:
    """A real one, which scrapes every second."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=20)

    def get(self, path: str, **parameters: str | float) -> Any:
        """Raises `httpx.HTTPError` where it isn't ready, or calls the query wrong."""
        reply = self._http.get(f"/api/v1/{path}", params=parameters)
        return reply.raise_for_status().json()["data"]

    def targets_up(self) -> bool:
        targets = self.get("targets")["activeTargets"]
        return bool(targets) and all(target["health"] == "up" for target in targets)

    def over_time(self, expr: str, start_s: float, end_s: float) -> list[list[float]]:
        """Each series' values, a second apart."""
        data = self.get("query_range", query=expr, start=start_s, end=end_s, step="1s")
        return [[float(value) for _, value in series["values"]] for series in data["result"]]

    def close(self) -> None:
        self._http.close()


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """Scrapes `targets`, by job, with the alerts loaded; all of them are up."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [url.removeprefix("http://") for url in urls]}],
            }
            for job, urls in targets.items()
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    port = free_port("127.0.0.1")
    command = [
        program("prometheus", package="prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            deadline = time.monotonic() + 20
            while not _is_up(running):
                assert process.poll() is None, (process.stderr and process.stderr.read()) or ""
                assert time.monotonic() < deadline, "not every target was scraped in time"
                time.sleep(0.05)
            yield running
        finally:
            running.close()
            process.terminate()


def _is_up(running: Prometheus) -> bool:
    try:
        return running.targets_up()
    except httpx.HTTPError:
        return False
