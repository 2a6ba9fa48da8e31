"""Metrics that are read from the router's state when asked: gauges, and counts that it keeps.

Being read, they can be told for several workers as well (`serve.shared_metrics`), and an engine
that left leaves no series. Counts begin at 0: of a series that begins at 1, Prometheus' `increase`
doesn't see the first event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve import __version__
from serve.admission import Gate
from serve.brownout import Brownout
from serve.replica import EJECTIONS, Replica
from serve.replicas import ReplicaSet
from serve.upstream import RETRIES

_Values = dict[tuple[str, ...], float]


class StateCollector(Collector):
    """`reloads` gives, by the kind of file, whether the last reading went well."""

    def __init__(
        self,
        gate: Gate,
        replicas: ReplicaSet,
        brownout: Brownout,
        reloads: Callable[[], Mapping[str, bool]],
    ) -> None:
        self._gate = gate
        self._set = replicas
        self._brownout = brownout
        self._reloads = reloads

    def collect(self) -> Iterator[Metric]:
        yield _gauge("r1_build_info", "1, of this version.", {(__version__,): 1}, ["version"])
        reloads: _Values = {(name,): int(ok) for name, ok in self._reloads().items()}
        text = "1: the last reading of the file went well."
        yield _gauge("r1_last_reload_successful", text, reloads, ["file"])
        yield _gauge("r1_in_flight", "Requests running now.", {(): self._gate.num_in_flight})
        yield _gauge("r1_queue_depth", "Requests waiting for a slot.", {(): self._gate.num_queued})
        levels: _Values = {(name,): level for name, level in self._brownout.levels().items()}
        text = "How far thinking is cut: 0 not at all, 1 to the minimum."
        yield _gauge("r1_brownout_level", text, levels, ["class"])
        yield from self._of_replicas()

    def _of_replicas(self) -> Iterator[Metric]:
        here, leaving = self._set.replicas, self._set.leaving
        yield _gauge("r1_replicas", "Replicas known.", {(): len(here)})
        yield _gauge("r1_replicas_ready", "Replicas in rotation.", {(): len(self._set.ready)})
        up: _Values = {(it.url,): int(it.ready) for it in (*here, *leaving)}
        yield _gauge("r1_replica_up", "1: in rotation.", up, ["replica"])
        in_flight: _Values = {(it.url,): it.num_in_flight for it in (*here, *leaving)}
        yield _gauge("r1_replica_in_flight", "Requests on a replica.", in_flight, ["replica"])
        yield _ejections(here)
        retries = CounterMetricFamily(
            "r1_retries", "Requests sent to another replica, by reason.", labels=("reason",)
        )
        for reason in RETRIES:
            retries.add_metric((reason,), self._set.num_retries[reason])
        yield retries


def _ejections(replicas: Sequence[Replica]) -> Metric:
    family = CounterMetricFamily(
        "r1_replica_ejections", "Times taken out, by reason.", labels=("replica", "reason")
    )
    for replica in replicas:
        for reason in EJECTIONS:
            family.add_metric((replica.url, reason), replica.num_ejections[reason])
    return family


def _gauge(name: str, text: str, values: _Values, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for names, value in values.items():
        family.add_metric(names, value)
    return family
