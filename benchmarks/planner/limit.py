"""Which limit binds an engine that can take no more, and what helps against it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.planner.capacity import kv_tokens
from benchmarks.planner.hardware import GPUS, Gpu
from benchmarks.planner.model_shape import KvDtype, ModelShape
from benchmarks.planner.simulate import EngineModel, Outcome
from benchmarks.planner.step_times import on_curve
from benchmarks.slo import Slo

Limit = Literal[
    "KV memory",
    "max_num_seqs",
    "memory bandwidth (weights)",
    "memory bandwidth (KV)",
    "compute of prefill",
    "compute",
    "step overhead",
]
_OFTEN = 0.02
"""A share of the time that counts."""
_LONG_WAIT = 0.1
"""Of a request's time."""

_NEAR = 0.9
"""To a limit."""


@dataclass(frozen=True, slots=True)
class Card:
    """What the advice may change."""

    gpu: Gpu
    shape: ModelShape
    kv_dtype: KvDtype
    is_measured: bool = False
    """Whether the step times come from a calibration rather than from the card's data sheet."""


def binding_limit(model: EngineModel, outcome: Outcome, slo: Slo) -> Limit:
    """Of an outcome under more load than the engine carries: what requests wait for, if they wait
    too long for their first step; else the largest part of the step's time."""
    use = outcome.use
    if _wait_too_long(outcome, slo):
        if use.short_of_kv > max(use.short_of_seats, _OFTEN * use.replica_s):
            return "KV memory"
        if use.short_of_seats > _OFTEN * use.replica_s and _has_time_for_more(outcome, slo):
            return "max_num_seqs"
    parts = parts_of_time(model, outcome)
    return max(parts, key=lambda limit: parts[limit])


def _wait_too_long(outcome: Outcome, slo: Slo) -> bool:
    """Whether most of those that are not good had their first token too late, or waiting is much of
    a request's time."""
    seen = outcome.latencies
    num_bad = sum(not slo.kept_by(latency) for latency in seen)
    num_late = sum(
        slo.ttft_ms is not None and 1000 * latency.ttft_s > slo.ttft_ms for latency in seen
    )
    e2e_s = sum(latency.e2e_s for latency in seen) / len(seen)
    return num_late > num_bad / 2 or outcome.mean_wait_s > _LONG_WAIT * e2e_s


def _has_time_for_more(outcome: Outcome, slo: Slo) -> bool:
    """Whether further seats would leave the time per token within its limit."""
    if slo.tpot_ms is None:
        return True
    return 1000 * outcome.percentile_s("tpot_s", 50) < _NEAR * slo.tpot_ms


def parts_of_time(model: EngineModel, outcome: Outcome) -> dict[Limit, float]:
    """Shares of a second, at the mean state of the engine. Where compute hides behind memory, or
    memory behind it, both count what they would take alone."""
    times, use = model.step_times, outcome.use
    running, kv = use.mean(use.running), use.mean(use.kv) * model.limits.kv_tokens
    prefill = use.mean(use.prompt_tokens) * times.prefill_token_s
    overhead_s = on_curve(times.by_running, round(running))
    kv_s = times.kv_token_s * kv
    memory_s = times.weights_s + kv_s
    compute_s = times.token_s * running
    work_s = max(memory_s, compute_s) if times.overlapped else memory_s + compute_s
    decode = max(0.0, 1 - prefill) / (overhead_s + work_s)
    mostly: Limit = (
        "memory bandwidth (KV)" if kv_s > times.weights_s else "memory bandwidth (weights)"
    )
    return {
        mostly: decode * memory_s,
        "compute of prefill": prefill,
        "compute": decode * compute_s,
        "step overhead": decode * overhead_s,
    }


def advice(limit: Limit, card: Card) -> str:
    """One sentence."""
    gpu, can_halve = card.gpu, card.kv_dtype == "auto" and card.gpu.has_fp8
    fp8 = "an fp8 KV cache (`--kv-dtype fp8`) takes half of the memory and of the reading"
    if limit == "KV memory":
        if can_halve:
            return f"The KV cache is full: {fp8} a token."
        return f"The KV cache is full: {_larger(card)}, or a smaller context, takes more at once."
    if limit == "max_num_seqs":
        return (
            "All seats are taken: a larger `--max-num-seqs` takes more at once, so long as the "
            "time per token allows it."
        )
    if limit == "memory bandwidth (KV)" and can_halve:
        return f"Steps mostly read KV: {fp8} a token."
    if limit in ("memory bandwidth (KV)", "memory bandwidth (weights)"):
        what = "KV" if limit == "memory bandwidth (KV)" else "weights"
        fast = _faster(gpu.bandwidth_gb_s, lambda other: other.bandwidth_gb_s)
        return f"Steps mostly read {what}: {fast} helps."
    if limit in ("compute", "compute of prefill"):
        fast = _faster(gpu.tflops, lambda other: other.tflops)
        if limit == "compute":
            return f"Steps mostly compute: {fast} helps."
        return f"Reading prompts takes most: prefix caching or shorter prompts help, or {fast}."
    return "Steps mostly take what each costs by itself: a faster card gains little, add replicas."


def _larger(card: Card) -> str:
    have = kv_tokens(card.gpu, card.shape, card.kv_dtype)
    larger = [gpu for gpu in GPUS if kv_tokens(gpu, card.shape, card.kv_dtype) > 1.5 * have]
    return f"a card with more memory ({larger[0].name})" if larger else "another replica"


def _faster(than: float, speed: Callable[[Gpu], float]) -> str:
    faster = [gpu for gpu in GPUS if speed(gpu) > 1.5 * than]
    return (
        f"a faster card ({min(faster, key=speed).name})"
        if faster
        else "no faster card is known; more replicas"
    )
