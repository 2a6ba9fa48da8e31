"""How many replicas a demand needs, what its users will see, and what one replica carries.

Replicas are added (1, 2, 4, …, then in between) until the simulated share of good requests is what
was asked. A fleet of more than four is simulated as four with their part of the load: balanced by
least load, a fourth of it sees what the whole does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.planner.demand import Demand
from benchmarks.planner.limit import Card, Limit, advice, binding_limit
from benchmarks.planner.simulate import EngineModel, Outcome, Simulation, e2e_s
from benchmarks.slo import Slo
from benchmarks.stats import table

_LARGER = 1.3
MAX_REPLICAS = 4096
_SIMULATED = 4
_FINE = 0.03
"""What one replica carries is found within this share of it."""
LATENCIES = {"ttft_s": "TTFT", "ttfa_s": "TTFA", "tpot_s": "TPOT", "e2e_s": "E2E"}


@dataclass(frozen=True, slots=True)
class Spread:
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected of a number of replicas. NaN where no request answers."""

    ttft_s: Spread
    ttfa_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    good_share: float
    requests_per_s: float
    """Of all replicas together."""
    tokens_per_s: float
    """Generated, of one replica."""
    num_running: float
    """On one replica, on average."""
    kv_usage: float
    preemptions_per_request: float


@dataclass(frozen=True, slots=True)
class Plan:
    num_replicas: int | None
    """None: no number of them keeps to the limits."""
    forecast: Forecast
    """Of `num_replicas`, or of a request alone on its replica where there is none."""
    carried_by_one: float
    """Users, or requests per second, that one replica carries within the limits; 0: none."""
    limit: Limit
    """What binds one replica that gets more than that."""
    advice: str


def plan(model: EngineModel, card: Card, demand: Demand, slo: Slo) -> Plan:
    alone = _alone(model, demand)
    if alone.good_share(slo) < slo.share:
        limit = binding_limit(model, alone, slo)
        return Plan(None, _forecast(alone, 1, slo), 0.0, limit, _unattainable(limit, card))
    num_replicas = least_replicas(lambda num: fleet(model, num, demand).keeps(slo))
    likely = demand.load / (num_replicas or 1)
    carried, beyond = carried_by_one(model, demand, slo, likely)
    limit = binding_limit(model, beyond, slo)
    if num_replicas is None:
        return Plan(None, _forecast(alone, 1, slo), carried, limit, advice(limit, card))
    forecast = _forecast(fleet(model, num_replicas, demand), num_replicas, slo)
    return Plan(num_replicas, forecast, carried, limit, advice(limit, card))


def _alone(model: EngineModel, demand: Demand) -> Outcome:
    return Simulation(model, 1, replace(demand, users=1, rate=None, pause_s=0.0)).run()


def _unattainable(limit: Limit, card: Card) -> str:
    return f"Not even a request alone on its replica keeps to the limits. {advice(limit, card)}"


def fleet(model: EngineModel, num_replicas: int, demand: Demand) -> Outcome:
    simulated = min(num_replicas, _SIMULATED)
    part = demand.with_load(demand.load * simulated / num_replicas)
    return Simulation(model, simulated, part).run()


def least_replicas(suffices: Callable[[int], bool]) -> int | None:
    high = 1
    while not suffices(high):
        high *= 2
        if high > MAX_REPLICAS:
            return None
    low = high // 2  # too few, or none
    while high - low > 1:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle
    return high


def carried_by_one(
    model: EngineModel, demand: Demand, slo: Slo, likely: float
) -> tuple[float, Outcome]:
    """The most load, looked for from `likely` on, and what happens beyond it."""
    step = 1.0 if demand.users is not None else 0.1 / e2e_s(model, demand, 1)

    def outcome(load: float) -> Outcome:
        return Simulation(model, 1, demand.with_load(load)).run()

    low, high = 0.0, max(step, likely)
    while (beyond := outcome(high)).keeps(slo):
        low, high = high, _LARGER * high
    while high - low > max(step, _FINE * low):
        middle = (low + high) / 2
        if (at := outcome(middle)).keeps(slo):
            low = middle
        else:
            high, beyond = middle, at
    return (demand.with_load(low).load if low else 0.0), beyond


def _forecast(outcome: Outcome, num_replicas: int, slo: Slo) -> Forecast:
    use = outcome.use

    def spread(field: str) -> Spread:
        return Spread(outcome.percentile_s(field, 50), outcome.percentile_s(field, 99))

    return Forecast(
        ttft_s=spread("ttft_s"),
        ttfa_s=spread("ttfa_s"),
        tpot_s=spread("tpot_s"),
        e2e_s=spread("e2e_s"),
        good_share=outcome.good_share(slo),
        requests_per_s=num_replicas * use.mean(use.num_ended),
        tokens_per_s=use.mean(use.output_tokens),
        num_running=use.mean(use.running),
        kv_usage=use.mean(use.kv),
        preemptions_per_request=use.num_preemptions / max(1, use.num_ended),
    )


def render(made: Plan, card: Card, demand: Demand) -> str:
    """For people."""
    unit = "users" if demand.users is not None else "requests/s"
    asked = f"{demand.load:g} {unit} of {card.shape.name} on {card.gpu.name}"
    if made.num_replicas is None:
        head = f"{asked}: no number of replicas keeps to the limits. A request alone would see:"
    else:
        replicas = "1 replica" if made.num_replicas == 1 else f"{made.num_replicas} replicas"
        head = f"{asked}: {replicas}. To be expected:"
    seen = made.forecast
    rows = [["", "p50", "p99"]]
    for field, name in LATENCIES.items():
        spread: Spread = getattr(seen, field)
        rows.append([name, _time(spread.p50), _time(spread.p99)])
    lines = [
        head,
        "",
        table(rows),
        "",
        f"Within the limits: {100 * seen.good_share:.1f} % of {seen.requests_per_s:.2f} requests/s",
        f"Each replica: {seen.tokens_per_s:,.0f} tokens/s, {seen.num_running:.0f} sequences, "
        f"{100 * seen.kv_usage:.0f} % of its KV, "
        f"{seen.preemptions_per_request:.2f} preemptions a request",
        f"One replica carries {_load(made.carried_by_one)} {unit}; then binds: {made.limit}.",
        made.advice,
        _BASIS[card.is_measured],
    ]
    return "\n".join(lines)


_BASIS = {
    False: "Step times are computed from the card's data sheet, not measured (docs/capacity.md).",
    True: "Step times are those that a calibration measured (docs/capacity.md).",
}


def _load(load: float) -> str:
    return f"{load:.0f}" if load >= 10 else f"{load:.2g}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
