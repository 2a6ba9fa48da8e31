"""What an engine's `/metrics` say about its load and its progress (names of vLLM 0.32,
`vllm/v1/metrics/loggers.py`). Seven searches over the bytes: an idle engine's page has 600 lines
and 50 kB, of which seven lines matter. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

_GAUGES = (b"num_requests_running", b"num_requests_waiting", b"kv_cache_usage_perc")
_COUNTERS = (
    b"iteration_tokens_total_count",
    b"generation_tokens_total",
    b"prompt_tokens_total",
    b"prefix_cache_queries_total",
)

_MIN_REQUESTS = 16
"""Of fewer requests on all engines, those that wait tell nothing: one is there for a moment."""

MOST = 1e18
"""Beyond it, and below 0, a value is nonsense."""


class EngineLoad(msgspec.Struct, frozen=True):
    """One look at an engine, summed over its data-parallel ranks."""

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    """0 to 1; the fullest rank's."""
    progress: tuple[float, ...]
    """Changes with every step of the engine core. Counters alone don't: during a long prefill in
    chunks no output comes, only the KV cache grows."""


def parse_load(metrics: bytes) -> EngineLoad | None:
    """None where the text isn't a vLLM engine's."""
    text = b"\n" + metrics + b"\n"
    running, waiting, usage = (list(_values(text, name)) for name in _GAUGES)
    if not running or not waiting:
        return None
    return EngineLoad(
        num_running=round(sum(running)),
        num_waiting=round(sum(waiting)),
        kv_cache_usage=max(usage, default=0.0),
        progress=(*(sum(_values(text, name)) for name in _COUNTERS), sum(usage)),
    )


def engine_pressure(loads: Sequence[EngineLoad]) -> float:
    """Of all engines together, from 0 to 2: the KV cache's use, or where more, twice the share of
    requests that wait. At 1 the cache is full, or as many wait as run."""
    if not loads:
        return 0.0
    num_waiting = sum(load.num_waiting for load in loads)
    num_requests = num_waiting + sum(load.num_running for load in loads)
    usage = sum(load.kv_cache_usage for load in loads) / len(loads)
    return max(usage, 2 * num_waiting / max(num_requests, _MIN_REQUESTS))


def _values(text: bytes, name: bytes) -> Iterator[float]:
    """A metric's values, one per set of labels (Prometheus' text format)."""
    needle = b"\nvllm:" + name
    at = text.find(needle)
    while at >= 0:
        end = text.find(b"\n", at + 1)
        if text[at + len(needle)] in b"{ ":
            try:
                value = float(text[text.rfind(b" ", at, end) + 1 : end])
            except ValueError:
                value = math.nan
            if 0 <= value < MOST:
                yield value
        at = text.find(needle, end)
