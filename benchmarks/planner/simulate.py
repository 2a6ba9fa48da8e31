"""A demand on some replicas of one engine, simulated; requests go to the least loaded.

After a warm-up, which takes as long as the load needs to become what it will stay, requests are
measured as they arrive, and the load stays on until all of them have ended.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.planner.demand import Demand, Latency, latency_of
from benchmarks.planner.engine_sim import Engine, Limits, Request, StepTimes
from benchmarks.slo import Slo
from benchmarks.stats import percentile

MIN_MEASURED = 1500
MAX_MEASURED = 4000
_FULL = 0.9
"""Of the KV: who waits then waits for it."""
_BACKLOG = 0.1
"""Of the measured requests: where as many more are under way in the end than at the beginning, the
load is more than the replicas do."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What one replica is to the simulation."""

    step_times: StepTimes
    limits: Limits
    outside_s: float = 0.0
    """From the client to the engine and back: HTTP, tokenizing, the network."""


@dataclass(slots=True)
class Use:
    """Time-weighted sums over replicas and the measured time."""

    replica_s: float = 0.0
    running: float = 0.0
    kv: float = 0.0
    short_of_seats: float = 0.0
    short_of_kv: float = 0.0
    output_tokens: int = 0
    prompt_tokens: int = 0
    num_preemptions: int = 0
    num_ended: int = 0

    def add(self, engine: Engine, limits: Limits, span_s: float) -> None:
        self.replica_s += span_s
        self.running += span_s * engine.num_running
        self.kv += span_s * engine.kv_usage
        if engine.num_waiting and engine.num_running >= limits.max_num_seqs:
            self.short_of_seats += span_s
        elif engine.num_waiting and engine.kv_usage > _FULL:
            self.short_of_kv += span_s

    def mean(self, total: float) -> float:
        return total / self.replica_s if self.replica_s else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    latencies: Sequence[Latency]
    use: Use
    mean_wait_s: float
    """From arrival to the first step."""
    overloaded: bool

    def good_share(self, slo: Slo) -> float:
        return sum(map(slo.kept_by, self.latencies)) / len(self.latencies)

    def keeps(self, slo: Slo) -> bool:
        return not self.overloaded and self.good_share(slo) >= slo.share

    def percentile_s(self, field: str, percent: float) -> float:
        values = [getattr(latency, field) for latency in self.latencies]
        return percentile([value for value in values if value is not None], percent)


class Simulation:
    """One run."""

    def __init__(
        self, model: EngineModel, num_replicas: int, demand: Demand, seed: int = 1
    ) -> None:
        self._model, self._demand, self._rng = model, demand, Random(seed)
        self._engines = [Engine(model.step_times, model.limits) for _ in range(num_replicas)]
        self._looked_s = [0.0] * num_replicas
        self._versions = [0] * num_replicas
        self._events: list[tuple[float, int, int, int]] = []  # time, order, engine or -1, version
        self._order = itertools.count()
        self._num_arrived = self._num_ended = 0
        self._measured: set[Request] = set()
        self._done: list[Request] = []
        self._use = Use()

    def run(self) -> Outcome:
        num_warm, num_measured = self._sizes()
        for at_s in self._starts():
            self._at(at_s)
        begin = backlog = 0
        while len(self._done) < num_measured:
            now_s, _, number, version = heapq.heappop(self._events)
            if number >= 0:
                if version == self._versions[number]:
                    self._look(number, now_s)
                continue
            if self._num_arrived == num_warm:
                begin = self._under_way()
                self._measure(now_s)
            measures = num_warm <= self._num_arrived < num_warm + num_measured
            self._arrive(now_s, measures)
            if self._num_arrived == num_warm + num_measured:
                backlog = self._under_way() - begin
        waits_s = [(r.started_s or 0.0) - r.arrived_s for r in self._done]
        return Outcome(
            [latency_of(request) for request in self._done],
            self._use,
            sum(waits_s) / num_measured,
            self._demand.users is None and backlog > _BACKLOG * num_measured,
        )

    def _starts(self) -> Iterator[float]:
        """The users' first requests, spread over a round of theirs; or the first arrival."""
        if self._demand.users is None:
            yield 0.0
        else:
            round_s = e2e_s(self._model, self._demand, 1) + self._demand.pause_s
            for _ in range(self._demand.users):
                yield self._rng.uniform(0, round_s)

    def _sizes(self) -> tuple[int, int]:
        """Requests of the warm-up and those measured: by how many are under way at once."""
        at_once = self._demand.users or 0
        if self._demand.rate is not None:
            full = self._model.limits.max_num_seqs
            lasts_s = e2e_s(self._model, self._demand, full)
            at_once = round(min(self._demand.rate * lasts_s, 2 * full * len(self._engines)))
        return max(200, round(1.5 * at_once)), min(max(MIN_MEASURED, at_once), MAX_MEASURED)

    def _at(self, at_s: float, number: int = -1, version: int = 0) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), number, version))

    def _under_way(self) -> int:
        return self._num_arrived - self._num_ended

    def _measure(self, now_s: float) -> None:
        self._use = Use()
        self._looked_s = [now_s] * len(self._engines)

    def _arrive(self, now_s: float, measures: bool) -> None:
        self._num_arrived += 1
        if self._demand.rate is not None:
            self._at(now_s + self._rng.expovariate(self._demand.rate))
        request = self._demand.request(now_s - self._model.outside_s, self._rng)
        number = min(range(len(self._engines)), key=lambda i: self._engines[i].num_requests)
        self._take(number, now_s)
        self._engines[number].submit(request, now_s)
        self._expect(number)
        if measures:
            self._measured.add(request)

    def _look(self, number: int, now_s: float) -> None:
        self._take(number, now_s)
        self._expect(number)

    def _take(self, number: int, now_s: float) -> None:
        """What the engine did until now."""
        engine = self._engines[number]
        self._use.add(engine, self._model.limits, now_s - self._looked_s[number])
        self._looked_s[number] = now_s
        for request in engine.advance(now_s):
            self._num_ended += 1
            self._use.num_ended += 1
            self._use.output_tokens += request.output_tokens
            self._use.prompt_tokens += request.prompt_tokens
            self._use.num_preemptions += request.num_preemptions
            if request in self._measured:
                self._done.append(request)
            if self._demand.users is not None:
                pause_s = self._demand.pause_s and self._rng.expovariate(1 / self._demand.pause_s)
                self._at(now_s + pause_s + self._model.outside_s)

    def _expect(self, number: int) -> None:
        self._versions[number] += 1
        event_s = self._engines[number].next_event_s()
        if event_s is not None:
            self._at(event_s, number, self._versions[number])


def e2e_s(model: EngineModel, demand: Demand, num_running: int) -> float:
    """About what a request of mean lengths takes beside others like it."""
    output_tokens = demand.think_tokens + demand.answer_tokens
    kv_tokens = round(num_running * (demand.prompt_tokens + output_tokens / 2))
    prefill_s = model.step_times.step_s(num_running, kv_tokens, demand.prompt_tokens, 1)
    return prefill_s + output_tokens * model.step_times.step_s(num_running, kv_tokens, 0)
