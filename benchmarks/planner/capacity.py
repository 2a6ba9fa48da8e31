"""What fits on a card and how fast it could be at best: arithmetic without a simulation.

python -m benchmarks.planner.capacity        # the table of docs/capacity.md
"""

from __future__ import annotations

from benchmarks.planner.hardware import GIB, GPUS, Gpu
from benchmarks.planner.model_shape import R1_DISTILL_QWEN_1_5B, KvDtype, ModelShape
from benchmarks.planner.sequence import Limits

GPU_MEMORY_UTILIZATION = 0.90
"""Of configs/gpu.toml."""
CONTEXTS = (2048, 8192, 32768)
RUNTIME_BYTES = GIB
"""Assumed: the CUDA context, compiled kernels and CUDA graphs."""
_LOGITS_COPIES = 3
"""Assumed: the sampler keeps float32 logits, their sorted form and probabilities at once."""


def working_bytes(shape: ModelShape, max_num_seqs: int, max_num_batched_tokens: int) -> int:
    """Memory beside weights and KV: the runtime, the largest step's activations (two bytes a value:
    residual, query/key/value and attention's output; gate, up and their product), the sampler."""
    activations = 2 * max_num_batched_tokens * (4 * shape.hidden + 3 * shape.intermediate)
    logits = _LOGITS_COPIES * 4 * max_num_seqs * shape.vocab
    return RUNTIME_BYTES + activations + logits


def kv_tokens(
    gpu: Gpu,
    shape: ModelShape,
    kv_dtype: KvDtype = "auto",
    max_num_seqs: int | None = None,
    utilization: float = GPU_MEMORY_UTILIZATION,
) -> int:
    """Tokens whose KV fits; 0 where not even the weights do."""
    seqs = max_num_seqs or gpu.max_num_seqs
    batched = max(gpu.max_num_batched_tokens, seqs)
    left = utilization * gpu.memory_gib * GIB
    left -= shape.weights_bytes + working_bytes(shape, seqs, batched)
    return max(0, int(left / shape.kv_bytes(kv_dtype)))


def limits_of(
    gpu: Gpu, shape: ModelShape, kv_dtype: KvDtype = "auto", max_num_seqs: int | None = None
) -> Limits:
    """Those of vLLM on this card, with its defaults where nothing else is asked."""
    seqs = max_num_seqs or gpu.max_num_seqs
    batched = max(gpu.max_num_batched_tokens, seqs)
    return Limits(seqs, batched, kv_tokens(gpu, shape, kv_dtype, seqs))


def tokens_per_s_bound(
    gpu: Gpu, shape: ModelShape, kv_dtype: KvDtype, num_seqs: int, context_tokens: float
) -> float:
    """What no engine exceeds with so many sequences that hold so much each: a step reads the
    weights and all KV once and computes a token for each, at the data sheet's speeds."""
    read = shape.read_bytes + num_seqs * context_tokens * shape.kv_bytes(kv_dtype)
    memory_s = read / gpu.bandwidth_bytes_s
    compute_s = num_seqs * shape.flops(context_tokens) / gpu.flops
    return num_seqs / max(memory_s, compute_s)


def table_rows(shape: ModelShape = R1_DISTILL_QWEN_1_5B) -> list[list[str]]:
    """A row for each card and KV type: the KV tokens, and for each context the sequences that fit
    at their full length and the bound on tokens/s with them half full, as they are on average."""
    rows = []
    for gpu in GPUS:
        dtypes: tuple[KvDtype, ...] = ("auto", "fp8") if gpu.has_fp8 else ("auto",)
        for dtype in dtypes:
            tokens = kv_tokens(gpu, shape, dtype)
            cells = [_cell(gpu, shape, dtype, tokens, context) for context in CONTEXTS]
            name = "fp8" if dtype == "fp8" else "16 bit"
            rows.append([gpu.name, name, f"{tokens / 1000:,.0f} k", *cells])
    return rows


def _cell(gpu: Gpu, shape: ModelShape, dtype: KvDtype, tokens: int, context: int) -> str:
    num_seqs = tokens // context
    if not num_seqs:
        return "-"
    running = min(num_seqs, gpu.max_num_seqs)
    bound = tokens_per_s_bound(gpu, shape, dtype, running, context / 2)
    return f"{num_seqs:,} / {_rounded(bound):,}"


def _rounded(value: float) -> int:
    """To two digits: the figure is a bound, not a forecast."""
    return int(float(f"{value:.2g}"))


def markdown_table(shape: ModelShape = R1_DISTILL_QWEN_1_5B) -> str:
    titles = ["GPU", "KV cache", "KV tokens", *(f"{context // 1024}k" for context in CONTEXTS)]
    lines = [titles, ["---", "---", *["---:"] * (len(titles) - 2)], *table_rows(shape)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(markdown_table())
