"""Metrics of the router (prefix `r1_`). Everything is observed per request, never per token."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.brownout import Brownout
from serve.budget import Budget
from serve.generation import Phases, Usage
from serve.lengths import UsualLengths
from serve.replicas import ReplicaSet
from serve.shared_metrics import SharedMetrics
from serve.tally import Tally
from serve.worker import ALONE, Worker

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SAMPLES = (1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 64)


M = TypeVar("M", Counter, Histogram)


class Labelled(Generic[M]):
    """A metric's children by their label values, as text. Its own `labels()` checks, converts and
    locks for each; this is a dict, as small as the metric itself."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Telemetry:
    """One registry per app. Gauges are collectors that read the state when asked: then they can be
    told for several workers as well (`serve.shared_metrics`)."""

    def __init__(
        self,
        num_in_flight: Callable[[], int],
        num_queued: Callable[[], int],
        replicas: ReplicaSet,
        brownout: Brownout,
        answers: UsualLengths,
        worker: Worker = ALONE,
    ) -> None:
        self._brownout = brownout
        self._answers = answers
        self.registry = CollectorRegistry()
        self._requests = self._counter(
            "r1_requests", "Requests by outcome.", ("route", "preset", "outcome")
        )
        self._tokens = self._counter(
            "r1_tokens", "Tokens by kind: prompt, reasoning, answer.", ("preset", "kind")
        )
        self._first_token = self._histogram(
            "r1_time_to_first_token_seconds", "Request to first text, thinking or answer."
        )
        self._first_answer = self._histogram(
            "r1_time_to_first_answer_seconds", "Request to first text of the answer."
        )
        self._duration = self._histogram("r1_request_seconds", "Request to last byte.")
        self._thinking_tokens = self._histogram(
            "r1_thinking_tokens", "Thinking of one generation.", _TOKENS
        )
        self._answer_tokens = self._histogram(
            "r1_answer_tokens", "Answer of one generation.", _TOKENS
        )
        self._budget_tokens = self._histogram(
            "r1_thinking_budget_tokens", "Thinking budget applied to a request.", _TOKENS
        )
        self._budgets = self._counter(
            "r1_thinking_budgets", "Requests by what set their budget.", ("preset", "source")
        )
        self._thinking_ends = self._counter(
            "r1_thinking_ends", "Generations by what closed their trace.", ("preset", "by")
        )
        self._agreement = self._histogram(
            "r1_vote_agreement", "Share of a vote's samples that gave the answer.", _SHARES
        )
        self._samples = self._histogram("r1_vote_samples", "Samples that a vote took.", _SAMPLES)
        self._failovers = Counter(
            "r1_failovers", "Times a reply had to go on on another engine.", registry=self.registry
        )
        self._queue_time = Histogram(
            "r1_queue_seconds",
            "Wait for a slot, about 0 where one was free.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._rejections = self._counter(
            "r1_rejections", "Requests refused with 429 or 401, by reason.", ("reason",)
        )
        self._key_requests = self._counter(
            "r1_key_requests", "Requests by key and outcome.", ("key", "outcome")
        )
        self._key_tokens = self._counter(
            "r1_key_tokens", "Tokens by key and kind.", ("key", "kind")
        )
        in_flight = GaugeCollector("r1_in_flight", "Requests running now.", num_in_flight)
        queued = GaugeCollector("r1_queue_depth", "Requests waiting for a slot.", num_queued)
        process = ProcessCollector(namespace="r1", registry=None)
        collectors = [
            in_flight,
            queued,
            process,
            BrownoutCollector(brownout),
            ReplicaCollector(replicas),
        ]
        self._shared = SharedMetrics(worker, collectors) if worker.directory else None
        if self._shared is None:
            for collector in collectors:
                self.registry.register(collector)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float] = _SECONDS
    ) -> Labelled[Histogram]:
        metric = Histogram(name, text, ("preset",), buckets=buckets, registry=self.registry)
        return Labelled(metric)

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Labelled[Counter]:
        return Labelled(Counter(name, text, labels, registry=self.registry))

    def record(self, watch: Stopwatch, route: str, preset: str, outcome: str) -> None:
        """The end of a request. `outcome`: ok, invalid, rejected, error or client_gone."""
        self._requests(route, preset, outcome).inc()
        if watch.first_token_s is not None:
            self._first_token(preset).observe(watch.first_token_s)
        if watch.first_answer_s is not None:
            self._first_answer(preset).observe(watch.first_answer_s)
        self._duration(preset).observe(watch.elapsed_s())

    def count(self, usage: Usage, preset: str) -> None:
        self._count(self._tokens, preset, usage)

    def _count(self, counter: Labelled[Counter], label: str, usage: Usage) -> None:
        counter(label, "prompt").inc(usage.prompt_tokens)
        counter(label, "reasoning").inc(usage.reasoning_tokens)
        answer = max(0, usage.completion_tokens - usage.reasoning_tokens)
        counter(label, "answer").inc(answer)

    def thought(self, preset: str, budget: Budget, phases: Iterable[Phases]) -> None:
        """How the generations of one request went."""
        self._budgets(preset, budget.source).inc()
        if budget.tokens is not None:
            self._budget_tokens(preset).observe(budget.tokens)
        for one in phases:
            self._thinking_tokens(preset).observe(one.num_thinking_tokens)
            self._answer_tokens(preset).observe(one.num_answer_tokens)
            self._thinking_ends(preset, one.thinking_ended_by).inc()
            if one.is_whole and one.thinking_ended_by == "model":
                self._answers.add(preset, one.num_answer_tokens)
            if budget.source != "brownout" and one.thinking_ended_by != "nothing":
                self._brownout.thought(preset, one.num_thinking_tokens)

    def voted(self, preset: str, tally: Tally) -> None:
        if tally.ballots:
            self._agreement(preset).observe(tally.share)
            self._samples(preset).observe(len(tally.ballots))

    def admitted(self, waited_s: float) -> None:
        """A request that got a slot after so long."""
        self._queue_time.observe(waited_s)

    def rejected(self, reason: str) -> None:
        self._rejections(reason).inc()

    def count_key(self, key: str, outcome: str, usage: Usage) -> None:
        """The end of a keyed request, by the key's name."""
        self._key_requests(key, outcome).inc()
        self._count(self._key_tokens, key, usage)

    def failed_over(self, times: int) -> None:
        self._failovers.inc(times)

    def exposition(self) -> bytes:
        """Prometheus' text format; with several workers, of all of them."""
        return generate_latest(self._shared.registry() if self._shared else self.registry)

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While inside, other workers are kept told."""
        return self._shared.running() if self._shared else contextlib.nullcontext()


class GaugeCollector(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], int]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterator[Metric]:
        yield _gauge(self._name, self._text, {(): self._read()})


class BrownoutCollector(Collector):
    def __init__(self, brownout: Brownout) -> None:
        self._brownout = brownout

    def collect(self) -> Iterator[Metric]:
        levels: _Values = {(name,): level for name, level in self._brownout.levels().items()}
        text = "How far thinking is cut: 0 not at all, 1 to the minimum."
        yield _gauge("r1_brownout_level", text, levels, ("class",))


class ReplicaCollector(Collector):
    """What the set of replicas is like when asked, so that one that left leaves no series."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self._set = replicas

    def collect(self) -> Iterator[Metric]:
        here = self._set.replicas
        leaving = [it for it in self._set.leaving if it.url not in {other.url for other in here}]
        yield _gauge("r1_replicas", "Replicas known.", {(): len(here)})
        yield _gauge("r1_replicas_ready", "Replicas in rotation.", {(): len(self._set.ready)})
        up: _Values = {(it.url,): int(it.ready) for it in (*here, *leaving)}
        yield _gauge("r1_replica_up", "1: in rotation.", up, ("replica",))
        in_flight: _Values = {(it.url,): it.num_in_flight for it in (*here, *leaving)}
        yield _gauge("r1_replica_in_flight", "Requests on a replica.", in_flight, ("replica",))
        ejections = CounterMetricFamily(
            "r1_replica_ejections", "Times taken out, by reason.", labels=("replica", "reason")
        )
        for replica in here:
            for reason, count in replica.num_ejections.items():
                ejections.add_metric((replica.url, reason), count)
        yield ejections
        retries = CounterMetricFamily(
            "r1_retries", "Requests sent to another replica, by reason.", labels=("reason",)
        )
        for reason, count in self._set.num_retries.items():
            retries.add_metric((reason,), count)
        yield retries


_Values = dict[tuple[str, ...], float]


def _gauge(name: str, text: str, values: _Values, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for names, value in values.items():
        family.add_metric(names, value)
    return family


class Stopwatch:
    """When a request's first text and first answer text came, in seconds since it began."""

    __slots__ = ("_start_s", "first_answer_s", "first_token_s")

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self.first_token_s: float | None = None
        self.first_answer_s: float | None = None

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start_s
