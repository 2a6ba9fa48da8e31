"""Metrics of several workers as one, whichever of them is asked.

Counters and histograms live in files that prometheus_client's multiprocess mode adds up. A worker's
files bear its index: one that was killed goes on from its old counts. What is read from state when
asked (gauges, and counters that the state keeps) has no such file: each worker leaves its readings
beside them every `REFRESH_S`, and the figures of the living are merged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serve.worker import Worker

REFRESH_S = 0.5

_OVER_WORKERS: dict[str, Callable[[float, float], float]] = {
    "r1_brownout_level": max,
    "r1_build_info": max,
    "r1_last_reload_successful": min,
    "r1_process_start_time_seconds": min,
    "r1_replicas": max,
    "r1_replicas_ready": min,
    "r1_replica_up": min,
}
"""What every worker sees for itself, by the one that sees it worst. Everything else is a sum."""


class _Reading(msgspec.Struct):
    """A gauge, as it lies in a worker's file."""

    name: str
    text: str
    label_names: list[str]
    values: list[tuple[list[str], float]]


class SharedMetrics:
    """One worker's part. `share_metrics` comes first in its process."""

    def __init__(self, worker: Worker, collectors: Sequence[Collector]) -> None:
        self._worker = worker
        self._collectors = collectors
        self._counters: dict[str, Counter] = {}
        self._counted: dict[tuple[str, ...], float] = {}

    def registry(self) -> CollectorRegistry:
        """All workers' metrics, those of this one as they are now."""
        self.refresh()
        registry = CollectorRegistry()
        readings = list(self._readings())
        registry.register(_Merged(readings))
        registry.register(_Added(str(_directory(self._worker)), _known_replicas(readings)))
        return registry

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(self._keep_fresh())
        try:
            yield
        finally:
            refreshing.cancel()

    async def _keep_fresh(self) -> None:
        while True:
            self.refresh()
            await asyncio.sleep(REFRESH_S)

    def refresh(self) -> None:
        """Leaves this worker's readings for the others."""
        gauges = []
        for family in (family for it in self._collectors for family in it.collect()):
            if family.type == "counter":
                self._count(family)
            elif family.samples:
                gauges.append(_reading(family))
        path = _readings_path(self._worker)
        written = path.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(gauges))
        written.replace(path)

    def _count(self, family: Metric) -> None:
        """Adds what came since the last time; a count that began anew counts from 0."""
        for sample in family.samples:
            names, labels = tuple(sample.labels), tuple(sample.labels.values())
            if family.name not in self._counters:
                self._counters[family.name] = Counter(
                    family.name, family.documentation, names, registry=None
                )
            counter = self._counters[family.name]
            before = self._counted.get((family.name, *labels), 0.0)
            new = sample.value - before if sample.value >= before else sample.value
            self._counted[(family.name, *labels)] = sample.value
            (counter.labels(*labels) if labels else counter).inc(new)

    def _readings(self) -> Iterator[_Reading]:
        for path in _directory(self._worker).glob("readings-*.json"):
            with contextlib.suppress(FileNotFoundError):  # its worker has just died
                yield from msgspec.json.decode(path.read_bytes(), type=list[_Reading])


class _Added(Collector):
    """Counters and histograms in the files; not those of replicas that nobody knows any more: in
    Kubernetes each new pod is another replica."""

    def __init__(self, directory: str, known_replicas: frozenset[str]) -> None:
        self._directory, self._shown = directory, known_replicas | {""}

    def collect(self) -> Iterator[Metric]:
        added = MultiProcessCollector(None, self._directory)  # type: ignore[no-untyped-call]
        for family in added.collect():  # type: ignore[no-untyped-call]
            family.samples = [
                sample
                for sample in family.samples
                if sample.labels.get("replica", "") in self._shown
            ]
            yield family


def _known_replicas(readings: Iterable[_Reading]) -> frozenset[str]:
    up = (reading for reading in readings if reading.name == "r1_replica_up")
    return frozenset(labels[0] for reading in up for labels, _ in reading.values)


class _Merged(Collector):
    def __init__(self, readings: Iterable[_Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        families: dict[str, tuple[_Reading, dict[tuple[str, ...], float]]] = {}
        for reading in self._readings:
            _, merged = families.setdefault(reading.name, (reading, {}))
            merge = _OVER_WORKERS.get(reading.name, float.__add__)
            for labels, value in reading.values:
                key = tuple(labels)
                merged[key] = merge(merged[key], value) if key in merged else value
        for reading, merged in families.values():
            family = GaugeMetricFamily(reading.name, reading.text, labels=reading.label_names)
            for key, value in merged.items():
                family.add_metric(key, value)
            yield family


def _reading(family: Metric) -> _Reading:
    label_names = list(family.samples[0].labels)
    given = [(list(sample.labels.values()), float(sample.value)) for sample in family.samples]
    return _Reading(family.name, family.documentation, label_names, given)


def share_metrics(worker: Worker) -> None:
    """To be called before a worker's process makes its first metric: prometheus_client knows one
    mode per process."""
    directory = _directory(worker)
    directory.mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    by_index = values.MultiProcessValue(lambda: worker.index)  # type: ignore[no-untyped-call]
    values.ValueClass = by_index


def forget_readings(worker: Worker) -> None:
    """Takes a dead worker's gauges out of the figures; its counts stay."""
    _readings_path(worker).unlink(missing_ok=True)


def _readings_path(worker: Worker) -> Path:
    return _directory(worker) / f"readings-{worker.index}.json"


def _directory(worker: Worker) -> Path:
    if worker.directory is None:
        raise RuntimeError("a worker alone shares nothing")
    return Path(worker.directory, "metrics")
