"""What each figure means, and the arithmetic from records to figures. Pure.

`FIGURES` is the list of them, and docs/load-tests.md their page (a test holds the two together).
Latencies are of requests that were due within the measured window and ended as they should, or were
hung up on when the client's patience ended: these count with what they had taken until then, or the
slowest would be the ones that are left out. Shares are of all that were due within the window;
rates count what arrived within it. A figure that can't be told is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.loadtest.client import SHORT
from benchmarks.loadtest.record import Record
from benchmarks.slo import Slo
from benchmarks.stats import percentile

Better = Literal["lower", "higher", "neither"]
Figures = Mapping[str, float]
PERCENTS = (50, 90, 99)
SATURATED_LAG_S = 0.025
"""The client's event loop this late at its 99th percentile: latencies are then partly its own."""
SATURATED_CPU = 0.85
"""Of a core."""
FEW_REQUESTS = 20
"""Of fewer a median says little."""
KEEPS_UP = 0.9
"""Ends over arrivals; less is more than chance in a window of some dozen requests."""
ENOUGH_FOR_P99 = 200
"""Of fewer a 99th percentile is one or two requests."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure's name for people, its unit, and which way is better."""

    label: str
    unit: str
    better: Better
    meaning: str


def _latency(label: str, meaning: str) -> dict[int, Figure]:
    return {p: Figure(f"{label} p{p}", "ms", "lower", meaning) for p in PERCENTS}


_LATENCIES = {
    "ttft": _latency("TTFT", "due → first chunk with text, of the trace or the answer"),
    "ttfa": _latency("TTFA", "due → first chunk with text of the answer"),
    "itl": _latency("ITL", "between one chunk of a stream and the next"),
    "tpot": _latency("TPOT", "(end - first text) / (output tokens - 1), of each request"),
    "e2e": _latency("E2E", "due → last byte"),
}
FIGURES: dict[str, Figure] = {
    "num_requests": Figure("requests", "count", "neither", "due within the measured window"),
    "requests_per_s": Figure("requests/s", "1/s", "higher", "replies that ended as they should"),
    "output_tokens_per_s": Figure(
        "output tokens/s", "1/s", "higher", "tokens that arrived, thinking included"
    ),
    "goodput_per_s": Figure("goodput", "1/s", "higher", "requests that kept to every limit"),
    "good": Figure("good", "share", "higher", "requests that kept to every limit, of all"),
    **{
        f"{name}_p{p}_ms": figure
        for name, by_percent in _LATENCIES.items()
        for p, figure in by_percent.items()
    },
    "answered": Figure("answered", "share", "higher", "ended with an answer's text, of all"),
    "truncated": Figure("truncated", "share", "lower", "ended at a limit or in a loop, of all"),
    "recovered": Figure(
        "recovered", "share", "neither", "answers that the router recovered from open thinking"
    ),
    "refused": Figure("refused", "share", "lower", "HTTP 429 or 503, of all"),
    "failed": Figure("failed", "share", "lower", "other errors, broken streams, of all"),
    "unfinished": Figure(
        "unfinished", "share", "lower", "hung up on by the client when its patience ended, of all"
    ),
    "failovers": Figure("failovers", "count", "lower", "times a reply went on elsewhere"),
    "right": Figure("right", "share", "higher", "right answers, of the checkable replies"),
    "prompt_tokens": Figure("prompt tokens", "tokens", "neither", "mean of a request"),
    "reasoning_tokens": Figure("thinking tokens", "tokens", "neither", "mean of a reply"),
    "answer_tokens": Figure("answer tokens", "tokens", "neither", "mean of a reply"),
    "router_cpu_us_per_token": Figure(
        "router CPU/token", "µs", "lower", "CPU time of the router's processes over output tokens"
    ),
    "router_memory_mib": Figure("router memory", "MiB", "lower", "resident, at its most"),
    "kv_use": Figure("KV use", "share", "neither", "of the engines' KV cache, at its most"),
    "num_running": Figure("running", "requests", "neither", "on the engines, mean"),
    "num_waiting": Figure("waiting", "requests", "lower", "on the engines, mean"),
    "num_queued": Figure("in line", "requests", "lower", "for a place in the router, mean"),
    "preemptions": Figure("preemptions", "count", "lower", "sequences that lost their KV cache"),
    "prefix_hits": Figure("prefix hits", "share", "higher", "prompt tokens found in the cache"),
    "client_cpu": Figure("client CPU", "cores", "neither", "what the load generator itself took"),
    "client_lag_p99_ms": Figure(
        "client lag p99", "ms", "neither", "how late the load generator's event loop was"
    ),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw in one measured window."""

    records: Sequence[Record]
    """Those due within it."""
    all_records: Sequence[Record]
    begin_s: float
    end_s: float
    num_events: int = 0
    gaps_s: Sequence[float] = ()
    lags_s: Sequence[float] = ()
    client_cpu_s: float = 0.0

    @property
    def span_s(self) -> float:
        return max(1e-9, self.end_s - self.begin_s)


def figures_of(seen: Seen, slo: Slo) -> dict[str, float]:
    """The figures that the client's own records give."""
    records, found = seen.records, dict[str, float]()
    ok = [record for record in records if record.ok]
    ended = sum(
        seen.begin_s <= record.ended_at_s < seen.end_s
        for record in seen.all_records
        if record.ok and record.ended_at_s is not None
    )
    found["requests_per_s"] = ended / seen.span_s
    found["num_requests"] = len(records)
    found["output_tokens_per_s"] = seen.num_events * tokens_per_event(ok) / seen.span_s
    found["goodput_per_s"] = sum(is_good(record, slo) for record in records) / seen.span_s
    found |= _latencies([it for it in records if it.ok or it.unfinished], seen.gaps_s)
    found |= _shares(records, slo)
    if reports_usage(ok):
        found |= _lengths(ok)
    found["client_cpu"] = seen.client_cpu_s / seen.span_s
    found["client_lag_p99_ms"] = 1000 * percentile(seen.lags_s, 99)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def tokens_per_event(ok: Sequence[Record]) -> float:
    """Of whole replies: engines put several tokens into one chunk when they are busy, and a chunk
    for the role or the usage has none. 1 for a server that reports no usage."""
    num_events = sum(record.num_events for record in ok)
    if not num_events or not reports_usage(ok):
        return 1.0 if num_events else math.nan
    return sum(record.output_tokens for record in ok) / num_events


def reports_usage(ok: Sequence[Record]) -> bool:
    return any(record.output_tokens for record in ok)


def _latencies(counted: Sequence[Record], gaps_s: Sequence[float]) -> dict[str, float]:
    values: dict[str, Sequence[float]] = {
        name: [value for record in counted if (value := getattr(record, f"{name}_s")) is not None]
        for name in ("ttft", "ttfa", "tpot", "e2e")
    }
    values["itl"] = gaps_s
    return {
        f"{name}_p{p}_ms": 1000 * percentile(seconds, p)
        for name, seconds in values.items()
        for p in PERCENTS
    }


def _shares(records: Sequence[Record], slo: Slo) -> dict[str, float]:
    if not records:
        return {}

    def share(holds: Callable[[Record], bool]) -> float:
        return sum(map(holds, records)) / len(records)

    checked = [record.right for record in records if record.right is not None]
    return {
        "good": share(lambda it: is_good(it, slo)),
        "answered": share(lambda it: it.answered),
        "truncated": share(lambda it: it.truncated),
        "recovered": share(lambda it: bool(it.recovered)),
        "refused": share(lambda it: it.refused),
        "unfinished": share(lambda it: it.unfinished),
        "failed": share(lambda it: not (it.ok or it.refused or it.unfinished)),
        "failovers": float(sum(record.num_failovers for record in records)),
        "right": sum(checked) / len(checked) if checked else math.nan,
    }


def is_good(record: Record, slo: Slo) -> bool:
    """Answered as it should be, within every limit."""
    return record.ok and slo.kept_by(record)


def _lengths(ok: Sequence[Record]) -> dict[str, float]:
    thinking = sum(record.reasoning_tokens for record in ok) / len(ok)
    output = sum(record.output_tokens for record in ok) / len(ok)
    return {
        "prompt_tokens": sum(record.prompt_tokens for record in ok) / len(ok),
        "reasoning_tokens": thinking,
        "answer_tokens": output - thinking,
    }


def warning_of(figures: Figures, records: Sequence[Record]) -> str:
    """Why a step's figures can't be trusted fully; empty where they can."""
    lag_ms, cpu = figures.get("client_lag_p99_ms", 0.0), figures.get("client_cpu", 0.0)
    ok = [record for record in records if record.ok]
    found = []
    if cpu > SATURATED_CPU:
        found.append(f"the load generator took {cpu:.2f} of a core: it may be what is measured")
    elif lag_ms > 1000 * SATURATED_LAG_S:
        found.append(
            f"the load generator ran up to {lag_ms:.0f} ms late (p99): the machine is short of CPU,"
            " and latencies are longer by so much"
        )
    if any(record.error == SHORT for record in records):
        found.append(f"{SHORT}: what it counts as failed was not the server's doing")
    if ok and not reports_usage(ok):
        found.append("the server reports no usage: a chunk is taken for a token")
    if figures.get("num_requests", 0) < FEW_REQUESTS:
        found.append(f"fewer than {FEW_REQUESTS} requests were due, of which a median says little")
    return "; ".join(found)


def queue_warning(figures: Figures, span_s: float) -> str:
    """Of an open loop: where more comes than ends, the figures are those of a queue that grows, and
    of a longer test they would be worse."""
    due_per_s = figures.get("num_requests", 0.0) / span_s
    if figures.get("requests_per_s", 0.0) >= KEEPS_UP * due_per_s:
        return ""
    return (
        f"{due_per_s:.3g} requests per second were due and {figures['requests_per_s']:.3g} ended: a"
        " queue grew, and in a longer test latencies are longer"
    )
