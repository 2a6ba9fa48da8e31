"""The doctor's checks of room: GPU memory, RAM, shared memory, disks, open files. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.planner.capacity import kv_tokens
from benchmarks.planner.hardware import Gpu
from benchmarks.planner.model_shape import KvDtype, ModelShape
from serve.doctor.facts import Facts, Setup
from serve.doctor.findings import GIB, MIB, Finding, ok, problem, size
from serve.doctor.gpus import InstalledGpu
from serve.settings import VLLM_GPU_MEMORY_UTILIZATION, EngineSettings

RUNTIME_BYTES = 2 * GIB
"""Of an engine on a CPU, beside weights and KV: vLLM and torch themselves (measured, 0.32)."""
SHM_BYTES = 240 * MIB
"""The largest ring buffer between vLLM's processes, ten chunks of 24 MiB; without so much free it
refuses to start (shm_broadcast.py, `check_shm_free_space`, 0.32)."""
SPARE_FILES = 128
"""Libraries, logs, the listening socket, probes."""


def check_gpu_memory(facts: Facts) -> Iterator[Finding]:
    """What others use, and weights and KV cache against the rest."""
    setup = facts.setup
    if setup is None or not setup.has_engines or facts.device != "gpu":
        return
    engine = setup.settings.engine
    shape = facts.model.shape if facts.model else None
    for gpu in facts.nvidia.gpus[: setup.num_engines * engine.tensor_parallel_size]:
        if gpu.total_bytes is None:
            continue
        taken = None if facts.running_pid else _taken(gpu, gpu.total_bytes, engine)
        if taken is not None:
            yield taken
        elif shape is not None:
            yield _room_for_kv(gpu, gpu.total_bytes, shape, engine)


def _taken(gpu: InstalledGpu, total_bytes: int, engine: EngineSettings) -> Finding | None:
    """vLLM refuses to start where its share isn't free (`request_memory`, 0.32)."""
    share = _share(engine)
    free_bytes = total_bytes - gpu.used_bytes
    if free_bytes >= share * total_bytes:
        return None
    fitting = int(100 * free_bytes / total_bytes) / 100
    who = ", ".join(gpu.users) or "nobody says who uses the rest"
    return problem(
        "vram",
        f"{gpu} has {size(free_bytes)} of {size(total_bytes)} free, less than "
        f"`engine.gpu_memory_utilization` = {share:g} of it: {who}.",
        f"Stop what uses it, or set `engine.gpu_memory_utilization` to {fitting:g} or less.",
    )


def _room_for_kv(
    gpu: InstalledGpu, total_bytes: int, shape: ModelShape, engine: EngineSettings
) -> Finding:
    """By the planner's estimate of what vLLM takes beside weights and KV."""
    dtype, share, part = _kv_dtype(engine), _share(engine), _part(shape, engine)
    card = Gpu(gpu.name, total_bytes / GIB, 0, 0, has_fp8=False)
    tokens = kv_tokens(card, part, dtype, engine.max_num_seqs, share)
    weights = size(part.weights_bytes)
    if tokens >= engine.max_model_len:
        return ok("vram", f"{gpu}: {weights} of weights and {tokens:,} tokens of KV cache fit")
    if not tokens:
        return problem(
            "vram",
            f"{gpu}: {weights} of weights don't fit {share:g} of {size(total_bytes)}.",
            'Use a larger card, `engine.quantization` = "fp8", or several cards with '
            "`engine.tensor_parallel_size`.",
        )
    needed = size(engine.max_model_len * part.kv_bytes(dtype))
    return problem(
        "vram",
        f"{gpu}: beside {weights} of weights {tokens:,} tokens of KV cache fit, and "
        f"`engine.max_model_len` = {engine.max_model_len} needs {needed}.",
        f"Set `engine.max_model_len` to {tokens} or less, lower `engine.max_num_seqs`, or halve "
        'the cache with `engine.kv_cache_dtype` = "fp8".',
    )


def _part(shape: ModelShape, engine: EngineSettings) -> ModelShape:
    """What one of the cards that share a model holds of it."""
    cards = engine.tensor_parallel_size
    weights = _weights_bytes(shape, engine)
    return replace(
        shape,
        measured_weights_bytes=weights // cards,
        num_kv_heads=max(1, shape.num_kv_heads // cards),
        intermediate=shape.intermediate // cards,
    )


def _weights_bytes(shape: ModelShape, engine: EngineSettings) -> int:
    """In memory: `fp8` quantises the layers of a 16-bit checkpoint while loading."""
    if engine.quantization != "fp8" or shape.weights_bytes < shape.num_parameters * 3 // 2:
        return shape.weights_bytes
    tables = (1 if shape.tied_embeddings else 2) * shape.vocab * shape.hidden
    return shape.num_parameters + tables


def _share(engine: EngineSettings) -> float:
    return engine.gpu_memory_utilization or VLLM_GPU_MEMORY_UTILIZATION


def _kv_dtype(engine: EngineSettings) -> KvDtype:
    return "fp8" if (engine.kv_cache_dtype or "").startswith("fp8") else "auto"


def check_memory(facts: Facts) -> Iterator[Finding]:
    """Engines on a CPU: the KV cache against the context, and all of it against the RAM."""
    setup, model = facts.setup, facts.model
    if setup is None or model is None or facts.device != "cpu":
        return
    engine = setup.settings.engine
    wide = engine.dtype == "float32" or (engine.dtype == "auto" and not _has_bfloat16(facts))
    kv_bytes = (engine.cpu_kv_cache_gib or 0) * GIB
    if kv_bytes and model.shape:
        token_bytes = model.shape.kv_bytes(_kv_dtype(engine)) * (2 if wide else 1)
        needed = token_bytes * engine.max_model_len
        if needed > kv_bytes:
            yield problem(
                "memory",
                f"`engine.cpu_kv_cache_gib` = {engine.cpu_kv_cache_gib} holds "
                f"{kv_bytes // token_bytes:,} tokens, less than `engine.max_model_len` = "
                f"{engine.max_model_len}.",
                f"Raise `engine.cpu_kv_cache_gib` to {-(-needed // GIB)}, or lower "
                "`engine.max_model_len`.",
            )
    if facts.running_pid:
        yield ok("memory", f"held by the r1-serve that runs (pid {facts.running_pid})")
        return
    weights = (model.shape.weights_bytes if model.shape else 0) * (2 if wide else 1)
    needed = setup.num_engines * (weights + kv_bytes + RUNTIME_BYTES)
    if needed > facts.free_memory_bytes:
        yield problem(
            "memory",
            f"{size(facts.free_memory_bytes)} of memory are free, and the engines need about "
            f"{size(needed)} (weights, KV cache and {size(RUNTIME_BYTES)} each for vLLM).",
            "Free memory, lower `engine.cpu_kv_cache_gib` or `engine.num_replicas`, or take a "
            "smaller model.",
        )
    else:
        free = size(facts.free_memory_bytes)
        yield ok("memory", f"{free} free, the engines need about {size(needed)}")


def _has_bfloat16(facts: Facts) -> bool:
    return facts.machine is None or facts.machine.computes_bfloat16


def check_shm(facts: Facts) -> Iterator[Finding]:
    """Only engines of several processes use it."""
    setup = facts.setup
    if setup is None or not _has_workers(facts, setup) or facts.free_shm_bytes is None:
        return
    if facts.free_shm_bytes < SHM_BYTES and not facts.running_pid:
        yield problem(
            "shm",
            f"/dev/shm has {size(facts.free_shm_bytes)} free; vLLM's processes need "
            f"{size(SHM_BYTES)} to talk to each other.",
            "In a container give it more: `--shm-size=1g` or `--ipc=host`; in Kubernetes a memory "
            "emptyDir at /dev/shm.",
        )
    else:
        yield ok("shm", f"{size(facts.free_shm_bytes)} free in /dev/shm")


def _has_workers(facts: Facts, setup: Setup) -> bool:
    engine = setup.settings.engine
    on_cpu = facts.device == "cpu" and engine.cpu_threads is None
    return setup.has_engines and (on_cpu or engine.tensor_parallel_size > 1)


def check_disk(facts: Facts) -> Iterator[Finding]:
    full = False
    for place in facts.places:
        if not place.is_writable:
            full = True
            yield problem(
                "disk",
                f"{place.path} can't be written to; it is for {place.what}.",
                "Give this user a directory of its own there, or name another.",
            )
        elif place.free_bytes < place.needed_bytes:
            full = True
            yield problem(
                "disk",
                f"{place.path} has {size(place.free_bytes)} free; {size(place.needed_bytes)} are "
                f"needed for {place.what}.",
                "Free space there, or name a directory on another disk.",
            )
    if facts.places and not full:
        least = min(facts.places, key=lambda place: place.free_bytes)
        yield ok("disk", f"{size(least.free_bytes)} free")


def check_files(facts: Facts) -> Iterator[Finding]:
    """A client and an engine's connection for each request that runs, one for each that waits."""
    if facts.setup is None:
        return
    router = facts.setup.settings.router
    needed = 2 * router.max_in_flight + router.max_queued + SPARE_FILES
    if facts.max_files < needed:
        yield problem(
            "files",
            f"A process may open {facts.max_files} files; `router.max_in_flight` = "
            f"{router.max_in_flight} and `router.max_queued` = {router.max_queued} need {needed}.",
            f"Raise the hard limit (`ulimit -Hn {needed}`, LimitNOFILE= in systemd, `--ulimit "
            "nofile=…` in Docker), or lower `router.max_in_flight`.",
        )
    else:
        yield ok("files", f"{facts.max_files} may be open, {needed} are needed at most")


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_gpu_memory,
    check_memory,
    check_shm,
    check_disk,
    check_files,
)
