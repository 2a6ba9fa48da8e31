"""Writes k8s/components/monitoring/prometheus-rule.yaml, the alerts for Prometheus' operator, from
alerts.yaml beside it, which is what Prometheus itself reads.

    python scripts/prometheus_rule.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

MONITORING = Path(__file__).parent.parent / "k8s" / "components" / "monitoring"
HEAD = """\
# Written by scripts/prometheus_rule.py from alerts.yaml, which is the one to change.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: r1-serve
  labels:
    app.kubernetes.io/name: r1-serve
spec:
"""


def prometheus_rule(alerts: str) -> str:
    """The operator's form of a file of rules; its comments stay with the file."""
    lines = alerts.splitlines(keepends=True)
    groups = "".join(line for line in lines if not line.lstrip().startswith("#"))
    return HEAD + textwrap.indent(groups, "  ")


if __name__ == "__main__":
    text = (MONITORING / "alerts.yaml").read_text(encoding="utf-8")
    (MONITORING / "prometheus-rule.yaml").write_text(prometheus_rule(text), encoding="utf-8")
