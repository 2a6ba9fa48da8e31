"""Metrics of the router (prefix `r1_`). Everything is observed per request, never per token.

What can be read from the router's state is `serve.state_metrics`'. `docs/observability.md` lists
all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from serve.brownout import Brownout
from serve.budget import Budget, BudgetSource
from serve.choice import THINKING_ENDS
from serve.lengths import UsualLengths
from serve.shared_metrics import SharedMetrics
from serve.stopwatch import Stopwatch
from serve.tally import Tally
from serve.usage import Phases, Usage
from serve.worker import ALONE, Worker

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SAMPLES = (1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 64)
OUTCOMES = ("ok", "invalid", "rejected", "unavailable", "error", "client_gone")
REJECTIONS = (
    "queue_full",
    "queue_timeout",
    "displaced",
    "not_ready",
    "shutting_down",
    "key_in_flight",
    "key_requests",
    "key_tokens",
    "invalid_key",
)
FINISH_REASONS = ("stop", "length", "tool_calls", "repetition", "none")
"""The engine's; the last of one that wasn't finished."""


M = TypeVar("M", Counter, Histogram)


class Labelled(Generic[M]):
    """A metric's children by their label values, as text. Its own `labels()` checks, converts and
    locks for each; this is a dict, as small as the metric itself.

    With one value of the last label come all of `last`, at 0: a share of what never happened is 0
    then, not missing."""

    def __init__(self, metric: M, last: Sequence[str] = ()) -> None:
        self._metric: M = metric
        self._last = last
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        child = self._children.get(values)
        if child is None:
            for value in (*self._last, values[-1]):
                names = (*values[:-1], value)
                self._children[names] = self._metric.labels(*names)
            child = self._children[values]
        return child


class Telemetry:
    """One registry per app; `state` reads what isn't counted here."""

    def __init__(
        self,
        state: Collector,
        brownout: Brownout,
        answers: UsualLengths,
        worker: Worker = ALONE,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series of each
        self._brownout = brownout
        self._answers = answers
        self.registry = CollectorRegistry()
        self._add_requests()
        self._add_thinking()
        self._add_admission()
        collectors = [state, ProcessCollector(namespace="r1", registry=None)]
        self._shared = SharedMetrics(worker, collectors) if worker.directory else None
        if self._shared is None:
            for collector in collectors:
                self.registry.register(collector)

    def _add_requests(self) -> None:
        self._requests = self._counter(
            "r1_requests", "Requests by outcome.", ("route", "preset", "outcome"), OUTCOMES
        )
        self._tokens = self._counter(
            "r1_tokens", "Tokens by kind: prompt, reasoning, answer.", ("preset", "kind")
        )
        self._first_token = self._histogram(
            "r1_time_to_first_token_seconds",
            "Request to first text, thinking or answer.",
            labels=("preset", "class"),
        )
        self._first_answer = self._histogram(
            "r1_time_to_first_answer_seconds",
            "Request to first text of the answer.",
            labels=("preset", "class"),
        )
        self._duration = self._histogram(
            "r1_request_seconds", "Request to last byte, of those that ended well."
        )
        self._failovers = Counter(
            "r1_failovers", "Times a reply had to go on on another engine.", registry=self.registry
        )

    def _add_thinking(self) -> None:
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
            "r1_thinking_budgets",
            "Requests by what set their budget.",
            ("preset", "source"),
            get_args(BudgetSource),
        )
        self._thinking_ends = self._counter(
            "r1_thinking_ends",
            "Generations by what closed their trace.",
            ("preset", "by"),
            THINKING_ENDS,
        )
        self._generations = self._counter(
            "r1_generations",
            "Generations by how they ended.",
            ("preset", "finish_reason"),
            FINISH_REASONS,
        )
        self._agreement = self._histogram(
            "r1_vote_agreement", "Share of a vote's samples that gave the answer.", _SHARES
        )
        self._samples = self._histogram("r1_vote_samples", "Samples that a vote took.", _SAMPLES)

    def _add_admission(self) -> None:
        self._queue_time = self._histogram(
            "r1_queue_seconds", "Wait for a slot, about 0 where one was free.", labels=("class",)
        )
        self._rejections = self._counter(
            "r1_rejections",
            "Requests refused with 429, 503 or 401, by reason.",
            ("reason",),
            REJECTIONS,
        )
        self._rejections(REJECTIONS[0])
        self._key_requests = self._counter(
            "r1_key_requests", "Requests by key and outcome.", ("key", "outcome")
        )
        self._key_tokens = self._counter(
            "r1_key_tokens", "Tokens by key and kind.", ("key", "kind")
        )

    def _histogram(
        self,
        name: str,
        text: str,
        buckets: Sequence[float] = _SECONDS,
        labels: Sequence[str] = ("preset",),
    ) -> Labelled[Histogram]:
        return Labelled(Histogram(name, text, labels, buckets=buckets, registry=self.registry))

    def _counter(
        self, name: str, text: str, labels: Sequence[str], last: Sequence[str] = ()
    ) -> Labelled[Counter]:
        return Labelled(Counter(name, text, labels, registry=self.registry), last)

    def record(self, watch: Stopwatch, route: str, preset: str, urgency: str, outcome: str) -> None:
        """The end of a request. `urgency` is its `admission.class_of`, `outcome` of `OUTCOMES`."""
        self._requests(route, preset, outcome).inc()
        if watch.first_token_s is not None:
            self._first_token(preset, urgency).observe(watch.first_token_s)
        if watch.first_answer_s is not None:
            self._first_answer(preset, urgency).observe(watch.first_answer_s)
        if outcome == "ok":
            self._duration(preset).observe(watch.elapsed_s())

    def record_refused(self, route: str, outcome: str) -> None:
        """The end of a request that was not even understood, or that no engine could take: before
        its preset was known."""
        self._requests(route, "", outcome).inc()

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
            finish_reason = one.finish_reason or "none"
            known = finish_reason in FINISH_REASONS
            self._generations(preset, finish_reason if known else "other").inc()
            if one.is_whole and one.thinking_ended_by == "model":
                self._answers.add(preset, one.num_answer_tokens)
            if budget.source != "brownout" and one.thinking_ended_by != "nothing":
                self._brownout.thought(preset, one.num_thinking_tokens)

    def voted(self, preset: str, tally: Tally) -> None:
        if tally.ballots:
            self._agreement(preset).observe(tally.share)
            self._samples(preset).observe(len(tally.ballots))

    def admitted(self, urgency: str, waited_s: float) -> None:
        """A request that got a slot after so long."""
        self._queue_time(urgency).observe(waited_s)

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
