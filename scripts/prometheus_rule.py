"""Writes k8s/components/monitoring/prometheus-rule.yaml, the alerts for Prometheus' operator, from
alerts.yaml beside it, which is what Prometheus itself reads.

    python scripts/prometheus_rule.py
    python scripts/prometheus_rule.py --runbook https://git.example.com/r1-serve/blob/main/

With `--runbook` the alerts' links to the runbook, which are paths of this repository, begin with
that URL, in both files.
"""

from __future__ import annotations

import argparse
import re
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


def with_runbook(alerts: str, base: str) -> str:
    """The links begin with `base`, whatever they began with."""
    found = re.compile(r"(?<=runbook_url: )\S*(?=docs/runbook\.md#)")
    return found.sub(lambda _: f"{base.rstrip('/')}/", alerts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runbook", metavar="URL", help="what docs/runbook.md is below")
    base = parser.parse_args().runbook
    source = MONITORING / "alerts.yaml"
    text = source.read_text(encoding="utf-8")
    if base is not None:
        text = with_runbook(text, base)
        source.write_text(text, encoding="utf-8")
    (MONITORING / "prometheus-rule.yaml").write_text(prometheus_rule(text), encoding="utf-8")


if __name__ == "__main__":
    main()
