"""What a card has, by its data sheet.

Sources: memory is what `nvidia-smi` shows (MiB / 1024), which is less or more than the name says;
bandwidth and dense tensor throughput (bfloat16, on the T4 float16; without sparsity, float32
accumulation) are NVIDIA's data sheets of the T4, L4, L40S, A100 (SXM), H100 (SXM) and H200, the Ada
architecture white paper for the RTX 4090, and for the A10G, which only AWS has, that of the G5
instances. How much of it a program reaches is `step_times`'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3
_LARGE_GIB = 70


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_gib: float
    bandwidth_gb_s: float
    tflops: float
    has_fp8: bool
    """Ada and Hopper: attention on an fp8 KV cache is at home there."""

    @property
    def bandwidth_bytes_s(self) -> float:
        return self.bandwidth_gb_s * 1e9

    @property
    def flops(self) -> float:
        return self.tflops * 1e12

    @property
    def is_large(self) -> bool:
        """vLLM 0.32 gives such cards larger defaults (vllm/engine/arg_utils.py,
        `_set_default_max_num_seqs_and_batched_tokens_args`)."""
        return self.memory_gib >= _LARGE_GIB and "A100" not in self.name

    @property
    def max_num_batched_tokens(self) -> int:
        """vLLM's default for a server."""
        return 8192 if self.is_large else 2048

    @property
    def max_num_seqs(self) -> int:
        """vLLM's default for a server."""
        return 1024 if self.is_large else 256


GPUS = (
    Gpu("T4", 15.0, 320, 65, has_fp8=False),
    Gpu("L4", 22.5, 300, 121, has_fp8=True),
    Gpu("A10G", 22.5, 600, 70, has_fp8=False),
    Gpu("RTX 4090", 24.0, 1008, 165, has_fp8=True),
    Gpu("L40S", 45.0, 864, 362, has_fp8=True),
    Gpu("A100 40GB", 40.0, 1555, 312, has_fp8=False),
    Gpu("A100 80GB", 80.0, 2039, 312, has_fp8=False),
    Gpu("H100", 79.6, 3350, 989, has_fp8=True),
    Gpu("H200", 140.4, 4800, 989, has_fp8=True),
)


def find_gpu(name: str) -> Gpu | None:
    """By its name, without regard to case, spaces and hyphens: `rtx4090`, `a100-80gb`."""
    return next((gpu for gpu in GPUS if _plain(gpu.name) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")
