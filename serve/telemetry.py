"""Metrics of the router (prefix `r1_`). Everything is observed per request, never per token.

Several workers keep theirs in files of the shared directory (prometheus_client's multiprocess
mode), so that each answers `/metrics` for all. A worker's files bear its index: one that was
killed comes back to its old counters. Gauges are readings, taken when asked and, since the others
may be asked as well, every `REFRESH_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serve.generation import Usage
from serve.worker import ALONE, Worker

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


REFRESH_S = 0.5

OverWorkers = Literal["livesum", "livemin", "livemax"]
"""How one figure is made of the living workers' readings."""


class Telemetry:
    """One registry per app."""

    def __init__(
        self,
        num_in_flight: Callable[[], int],
        num_ready: Callable[[], int],
        num_replicas: int,
        worker: Worker = ALONE,
    ) -> None:
        self._worker = worker
        self.registry = CollectorRegistry()
        self._readings: list[tuple[Gauge, Callable[[], float]]] = []
        self._requests = Counter(
            "r1_requests",
            "Requests by route, preset and outcome.",
            ("route", "preset", "outcome"),
            registry=self.registry,
        )
        self._tokens = Counter(
            "r1_tokens",
            "Tokens by preset and kind: prompt, reasoning, answer.",
            ("preset", "kind"),
            registry=self.registry,
        )
        self._first_token = self._histogram(
            "r1_time_to_first_token_seconds", "Request to first text, thinking or answer."
        )
        self._first_answer = self._histogram(
            "r1_time_to_first_answer_seconds", "Request to first text of the answer."
        )
        self._duration = self._histogram("r1_request_seconds", "Request to last byte.")
        self._gauge("r1_in_flight", "Requests running now.", num_in_flight, "livesum")
        self._gauge("r1_replicas_ready", "Replicas in rotation.", num_ready, "livemin")
        self._gauge("r1_replicas", "Replicas configured.", lambda: num_replicas, "livemax")

    def _gauge(self, name: str, text: str, read: Callable[[], float], mode: OverWorkers) -> None:
        gauge = Gauge(name, text, registry=self.registry, multiprocess_mode=mode)
        self._readings.append((gauge, read))

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("preset",), buckets=_SECONDS, registry=self.registry)

    def record(self, watch: Stopwatch, route: str, preset: str, outcome: str) -> None:
        """The end of a request. `outcome`: ok, invalid, rejected, error or client_gone."""
        self._requests.labels(route, preset, outcome).inc()
        if watch.first_token_s is not None:
            self._first_token.labels(preset).observe(watch.first_token_s)
        if watch.first_answer_s is not None:
            self._first_answer.labels(preset).observe(watch.first_answer_s)
        self._duration.labels(preset).observe(watch.elapsed_s())

    def count(self, usage: Usage, preset: str) -> None:
        self._tokens.labels(preset, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(preset, "reasoning").inc(usage.reasoning_tokens)
        answer = max(0, usage.completion_tokens - usage.reasoning_tokens)
        self._tokens.labels(preset, "answer").inc(answer)

    def exposition(self) -> bytes:
        """Prometheus' text format; with several workers, of all of them."""
        self._read_gauges()
        if self._worker.directory is None:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        directory = str(_metrics_dir(self._worker.directory))
        MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the gauges fresh that other workers show."""
        if self._worker.directory is None:
            yield
            return
        refreshing = asyncio.create_task(self._refresh())
        try:
            yield
        finally:
            refreshing.cancel()

    async def _refresh(self) -> None:
        while True:
            self._read_gauges()
            await asyncio.sleep(REFRESH_S)

    def _read_gauges(self) -> None:
        for gauge, read in self._readings:
            gauge.set(read())


def share_metrics(worker: Worker) -> None:
    """To be called before the first `Telemetry` of a worker's process: prometheus_client knows
    one mode per process."""
    if worker.directory is None:
        return
    directory = _metrics_dir(worker.directory)
    directory.mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    by_index = values.MultiProcessValue(lambda: worker.index)  # type: ignore[no-untyped-call]
    values.ValueClass = by_index


def forget_gauges(worker: Worker) -> None:
    """Takes a dead worker's readings out of the figures; its counters stay."""
    if worker.directory is not None:
        directory = str(_metrics_dir(worker.directory))
        mark_process_dead(worker.index, directory)  # type: ignore[no-untyped-call]


def _metrics_dir(directory: str) -> Path:
    return Path(directory, "metrics")


class Stopwatch:
    """When a request's first text and first answer text came, in seconds since it began."""

    __slots__ = ("_start_s", "first_answer_s", "first_token_s")

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self.first_token_s: float | None = None
        self.first_answer_s: float | None = None

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start_s
