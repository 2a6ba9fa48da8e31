"""What an engine's `/metrics` say about its load and its progress (names of vLLM 0.32,
`vllm/v1/metrics/loggers.py`). A scan over the bytes: these pages have hundreds of lines. Pure.
"""

from __future__ import annotations

import re

import msgspec

_GAUGES = (b"num_requests_running", b"num_requests_waiting", b"kv_cache_usage_perc")
_COUNTERS = (
    b"iteration_tokens_total_count",
    b"generation_tokens_total",
    b"prompt_tokens_total",
    b"prefix_cache_queries_total",
)
_SAMPLE = re.compile(
    rb"^vllm:(" + b"|".join(_GAUGES + _COUNTERS) + rb")(?:\{.*\})? +([0-9.eE+-]+)", re.MULTILINE
)


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
    values: dict[bytes, list[float]] = {}
    try:
        for name, value in _SAMPLE.findall(metrics):
            values.setdefault(name, []).append(float(value))
    except ValueError:
        return None
    running, waiting, usage = (values.get(name) for name in _GAUGES)
    if not running or not waiting:
        return None
    return EngineLoad(
        num_running=round(sum(running)),
        num_waiting=round(sum(waiting)),
        kv_cache_usage=max(usage or [0.0]),
        progress=tuple(sum(values.get(name, ())) for name in (*_COUNTERS, _GAUGES[2])),
    )
