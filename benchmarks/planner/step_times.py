"""How long one engine step takes. Pure.

A step runs every sequence of the batch once: those that decode make a token each, those whose
prompt is being read take a chunk of it. Its time is

    by_running(sequences)                          launch, scheduling, sampling, writing the tokens
    + memory: weights_s + kv_token_s x KV tokens   read once a step
    + compute: token_s x sequences + prefill_token_s x prompt tokens
    + request_s x requests whose prompt is begun   parsing, tokenising

where a GPU does memory and compute at the same time (`overlapped`: the longer of the two counts).
`roofline` makes one from data sheets, `calibrated` from steps that were measured.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from benchmarks.planner.hardware import Gpu
from benchmarks.planner.model_shape import KvDtype, ModelShape

BANDWIDTH_SHARE = 0.75
"""Assumed: of the data sheet's bandwidth, what decoding reaches."""
COMPUTE_SHARE = 0.5
"""Assumed: of the data sheet's dense throughput, what reading prompts reaches with matrices as
small as the 1.5B's."""
STEP_OVERHEAD_S = 0.002
"""Assumed: scheduling, launch and sampling of one step, beside what its kernels take."""
SEQUENCE_OVERHEAD_S = 15e-6
"""Assumed: what each sequence adds to it."""

Knots = tuple[tuple[int, float], ...]
"""Points of a curve over the number of sequences, seconds; straight lines between them."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    by_running: Knots
    weights_s: float = 0.0
    kv_token_s: float = 0.0
    token_s: float = 0.0
    prefill_token_s: float = 0.0
    request_s: float = 0.0
    overlapped: bool = False

    def step_s(
        self, num_running: int, kv_tokens: int, prefill_tokens: int, num_begun: int = 0
    ) -> float:
        """`kv_tokens` are those that all sequences hold before the step."""
        memory_s = self.weights_s + self.kv_token_s * kv_tokens
        compute_s = self.token_s * num_running + self.prefill_token_s * prefill_tokens
        work_s = max(memory_s, compute_s) if self.overlapped else memory_s + compute_s
        return on_curve(self.by_running, num_running) + work_s + self.request_s * num_begun

    def decode_s(self, num_running: int, kv_tokens: int, num_steps: int) -> float:
        """`num_steps` steps in which every sequence makes a token: the KV grows by as many tokens a
        step, and with it, linearly, the time."""
        memory_s = self.weights_s + self.kv_token_s * kv_tokens
        growth_s = self.kv_token_s * num_running
        compute_s = self.token_s * num_running
        fixed_s = num_steps * on_curve(self.by_running, num_running)
        if not self.overlapped:
            return fixed_s + num_steps * compute_s + _sum(memory_s, growth_s, 0, num_steps)
        # So long as compute takes longer, it is what counts.
        if memory_s >= compute_s:
            bound = 0
        elif growth_s * num_steps <= compute_s - memory_s:
            bound = num_steps
        else:
            bound = min(num_steps, int((compute_s - memory_s) / growth_s) + 1)
        return fixed_s + bound * compute_s + _sum(memory_s, growth_s, bound, num_steps)


def roofline(
    gpu: Gpu, shape: ModelShape, kv_dtype: KvDtype = "auto", prompt_tokens: float = 0
) -> StepTimes:
    """By the data sheet and the shares above; attention within prompts counts as for prompts of
    `prompt_tokens`, whose tokens see half of it on average."""
    bandwidth, flops = BANDWIDTH_SHARE * gpu.bandwidth_bytes_s, COMPUTE_SHARE * gpu.flops
    return StepTimes(
        by_running=((0, STEP_OVERHEAD_S), (1000, STEP_OVERHEAD_S + 1000 * SEQUENCE_OVERHEAD_S)),
        weights_s=shape.read_bytes / bandwidth,
        kv_token_s=shape.kv_bytes(kv_dtype) / bandwidth,
        token_s=shape.flops() / flops,
        prefill_token_s=shape.flops(prompt_tokens / 2) / flops,
        overlapped=True,
    )


def _sum(first: float, growth: float, start: int, stop: int) -> float:
    """first + growth x i, over i in range(start, stop)."""
    return (stop - start) * (first + growth * (start + stop - 1) / 2)


def on_curve(knots: Knots, num_running: int) -> float:
    """Between two knots the line through them, as outside of them; flat with one knot."""
    if len(knots) == 1:
        return knots[0][1]
    at = min(max(bisect_right(knots, (num_running,)), 1), len(knots) - 1)
    (x0, y0), (x1, y1) = knots[at - 1], knots[at]
    return y0 + (y1 - y0) * (num_running - x0) / (x1 - x0)
