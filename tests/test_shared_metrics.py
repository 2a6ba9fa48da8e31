"""Readings of several workers as one. (Counters over real processes: tests/test_workers.py.)"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.shared_metrics import SharedMetrics, forget_readings
from serve.worker import Worker
from tests.conftest import ROOT


class State(Collector):
    """What a worker's collectors read."""

    def __init__(self, up: dict[str, int], num_waiting: int = 0, num_ready: int = 0) -> None:
        self.up, self.num_waiting, self.num_ready = up, num_waiting, num_ready

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("r1_replica_up", "Up.", labels=["replica"])
        for name, value in self.up.items():
            up.add_metric([name], value)
        yield up
        yield GaugeMetricFamily("r1_waiting", "Waiting.", value=self.num_waiting)
        yield GaugeMetricFamily("r1_replicas_ready", "Ready.", value=self.num_ready)


def shown(metrics: SharedMetrics) -> set[str]:
    lines = generate_latest(metrics.registry()).decode().splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_gauges_are_summed_or_told_by_the_worker_that_sees_it_worst(tmp_path: Path) -> None:
    """Waiting requests add up; a replica is up when all see it up; one that no worker knows any
    more leaves no series; a dead worker's readings go."""
    (tmp_path / "metrics").mkdir()
    workers = [Worker(index, 2, str(tmp_path)) for index in range(2)]
    states = [State({"a": 1, "b": 1}, 2, 2), State({"b": 0}, 3, 1)]
    first, second = (
        SharedMetrics(worker, [state]) for worker, state in zip(workers, states, strict=True)
    )
    second.refresh()
    assert shown(first) == {
        'r1_replica_up{replica="a"} 1.0',
        'r1_replica_up{replica="b"} 0.0',
        "r1_waiting 5.0",
        "r1_replicas_ready 1.0",
    }
    states[0].up = {}
    assert 'r1_replica_up{replica="a"} 1.0' not in shown(first)
    forget_readings(workers[1])
    assert shown(first) == {"r1_waiting 2.0", "r1_replicas_ready 2.0"}


COUNTS = """
import sys
from prometheus_client import generate_latest
from serve.shared_metrics import SharedMetrics, share_metrics
from serve.worker import Worker
from tests.test_shared_metrics import Counts

worker = Worker(int(sys.argv[1]), 2, sys.argv[2])
share_metrics(worker)
counts = Counts()
metrics = SharedMetrics(worker, [counts])
for value in map(int, sys.argv[3:]):
    counts.value = value
    metrics.refresh()
print(generate_latest(metrics.registry()).decode())
"""


class Counts(Collector):
    value = 0

    def collect(self) -> Iterator[Metric]:
        retries = CounterMetricFamily("r1_retries", "Retries.", labels=["reason"])
        retries.add_metric(["reset"], self.value)
        yield retries


def test_a_replica_that_nobody_knows_any_more_leaves_no_count(tmp_path: Path) -> None:
    """Its counts stay in the files, since a worker may come to know it again."""
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    both, one = done.stdout.split("---")
    assert all(f'r1_ejections_total{{replica="{name}"}} 1.0' in both for name in "ab")
    assert 'replica="a"' not in one
    assert 'r1_ejections_total{replica="b"} 1.0' in one


REPLICAS = """
import sys
from prometheus_client import generate_latest
from serve.shared_metrics import SharedMetrics, share_metrics
from serve.worker import Worker
from tests.test_shared_metrics import Ejections

worker = Worker(0, 1, sys.argv[1])
share_metrics(worker)
state = Ejections({"a": 1, "b": 1})
metrics = SharedMetrics(worker, [state])
print(generate_latest(metrics.registry()).decode())
del state.up["a"]
print("---", generate_latest(metrics.registry()).decode())
"""


class Ejections(State):
    def collect(self) -> Iterator[Metric]:
        yield from super().collect()
        ejections = CounterMetricFamily("r1_ejections", "Ejections.", labels=["replica"])
        for name in self.up:
            ejections.add_metric([name], 1)
        yield ejections


def test_counts_kept_in_state_outlive_the_process_and_add_up(tmp_path: Path) -> None:
    """A worker that comes back counts from 0 in its state, and goes on in the metrics; so does
    a count that began anew within a process."""

    def total(index: int, *values: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", COUNTS, str(index), str(tmp_path), *map(str, values)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        return next(line for line in done.stdout.splitlines() if line.startswith("r1_retries_t"))

    assert total(0, 2, 5) == 'r1_retries_total{reason="reset"} 5.0'
    assert total(1, 1) == 'r1_retries_total{reason="reset"} 6.0'
    assert total(0, 4, 1) == 'r1_retries_total{reason="reset"} 11.0'
