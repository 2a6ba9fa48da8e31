"""Typed settings, read from TOML. Defaults live here; `configs/*.toml` say what a profile changes.

Unknown keys and wrong types fail at start with the file, the key and the nearest right key. The
command line overrides a few of these (`serve/cli.py`); the environment carries only secrets.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from serve.balancing import Balancing
from serve.strict import StrictError, convert

Port = Annotated[int, Meta(ge=0, le=65535)]
PositiveInt = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Profile = Literal["cpu", "gpu"]
VLLM_GPU_MEMORY_UTILIZATION = 0.92
"""vLLM 0.32's default."""


class SettingsError(ValueError):
    """A settings file can't be used; the message says where and how to mend it."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the router listens. Port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: Port = 8000
    workers: PositiveInt = 1
    """Router processes on the one port."""
    max_body_bytes: PositiveInt = 4 * 1024 * 1024
    drain_timeout_s: Seconds = 60.0
    keys_file: str | None = None
    """API keys (`r1-serve key`), relative to the settings file; None asks for no key."""
    allow_anonymous: bool = False
    """Listen on other addresses than loopback without keys: something in front authenticates."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    playground: bool = True
    """Serve the pages: the playground at `/ui`, the API's description at `/docs`."""


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the router does with a request, and how it talks to the engines."""

    engine_urls: list[str] = []
    engine_dns: str | None = None
    """A name whose addresses are the engines, as `http://name:port`."""
    engine_file: str | None = None
    """A file with one engine URL per line, watched; relative to the settings file."""
    balancing: Balancing = "prefix_affinity"
    max_in_flight_per_replica: PositiveInt | None = None
    presets: str | None = None
    """Path of the presets file, relative to the settings file; None = the shipped one."""
    default_preset: str = "chat"
    max_in_flight: PositiveInt = 1024
    max_queued: Annotated[int, Meta(ge=0)] = 256
    queue_timeout_s: Seconds = 10.0
    reasoning_fields: Annotated[
        list[Literal["reasoning_content", "reasoning"]], Meta(min_length=1)
    ] = msgspec.field(default_factory=lambda: ["reasoning_content", "reasoning"])
    merge_system_message: bool = True
    """Put system messages into the user turn, as the model's makers advise."""
    connect_timeout_s: Seconds = 5.0
    idle_timeout_s: Seconds = 300.0
    """Longest silence of an engine, before its first byte or between two."""
    probe_interval_s: Seconds = 2.0
    stall_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    """An engine with requests but no output and no movement of its counters for this long is
    wedged. It must be longer than the engine's longest step."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One vLLM server's settings, in vLLM's own words; None leaves vLLM's default."""

    model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    served_name: str = "r1-distill-qwen-1.5b"
    num_replicas: PositiveInt = 1
    host: str = "127.0.0.1"
    port: Port = 8100
    """The first replica's port; the next ones take the ports that follow. 0 takes free ones."""
    backend: Literal["local", "ray"] = "local"
    """`local`: processes on this machine; `ray`: actors on a Ray cluster (`[ray]`)."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    frontend: Literal["auto", "python", "rust"] = "auto"
    api_server_count: PositiveInt | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    load_format: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: PositiveInt = 32768
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    gpu_memory_utilization: Fraction | None = None
    cpu_kv_cache_gib: PositiveInt | None = None
    cpu_threads: PositiveInt | None = None
    """Threads of a forward pass on a CPU, run inside the engine core: best for small models. None
    leaves vLLM's own way: a worker process bound to the cores."""
    tensor_parallel_size: PositiveInt = 1
    enforce_eager: bool = False
    enable_prefix_caching: bool = True
    reasoning_parser: str | None = "deepseek_r1"
    tool_call_parser: str | None = "hermes"
    """How calls of tools are read out of the answer; None refuses tools."""
    compact_json: bool = True
    """Structured JSON without white space: small models loop on line breaks where they are free."""
    scheduling_policy: Literal["fcfs", "priority"] = "priority"
    speculative_ngram_tokens: PositiveInt | None = None
    """Tokens guessed per step by n-gram look-up in the prompt; None = no speculation."""
    shutdown_timeout_s: Seconds = 60.0
    startup_timeout_s: Seconds = 600.0
    log_dir: str | None = None
    """Where each engine's log file goes; None = `r1-serve-<uid>` in the temporary directory."""
    extra_args: list[str] = []
    env: dict[str, str] = {}


class BrownoutSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Less thinking under pressure. Pressure is 1 where every slot is taken, 2 where newcomers are
    refused (`serve.waiting`)."""

    enabled: bool = False
    start: Annotated[float, Meta(ge=0, le=2)] = 0.8
    """Pressure at which batch work begins to think less; interactive work does midway to `full`."""
    full: Annotated[float, Meta(gt=0, le=2)] = 1.2
    min_thinking_tokens: PositiveInt = 256
    """What everyone may think at least; budgets below it are left alone."""
    recovery_s: Annotated[float, Meta(gt=0)] = 60.0
    """From the smallest budgets back to the usual: several times as long as a generation."""

    def __post_init__(self) -> None:
        if self.start >= self.full:
            raise ValueError(f"`start` must be below `full`, got {self.start:g} and {self.full:g}")


class RaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where Ray runs the engines, and what each takes of a node."""

    address: str | None = None
    """`auto`: the cluster that this machine is part of; None: one of our own, on this machine."""
    num_cpus_per_replica: Annotated[float, Meta(gt=0)] = 1.0
    num_gpus_per_replica: Annotated[float, Meta(ge=0)] | None = None
    """A part of 1 puts several engines on one card. None: `engine.tensor_parallel_size` where the
    vLLM here is the one for GPUs, or, with none here, where the cluster has GPUs."""

    def __post_init__(self) -> None:
        if self.address not in (None, "auto") and not re.fullmatch(r"[^/]+:\d+", self.address):
            raise ValueError(f'`address` must be "auto" or "host:port", got "{self.address}"')


class AutoscaleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How many engines `r1-serve up` runs, after what they have to do (`serve.autoscale`)."""

    max_replicas: PositiveInt | None = None
    """None: no autoscaling, as many as `engine.num_replicas` or `r1-serve scale` say."""
    min_replicas: PositiveInt = 1
    target_requests_per_replica: Annotated[float, Meta(gt=0)] = 48.0
    """Running, waiting on the engine, or waiting in the router."""
    target_kv_cache_usage: Fraction = 0.8
    scale_down_delay_s: Seconds = 300.0
    """How long fewer must be enough before one ends."""

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"`min_replicas` = {self.min_replicas} is above `max_replicas` = "
                f"{self.max_replicas}"
            )


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the router tells of each request (`docs/observability.md`)."""

    access_log: bool = False
    """One line of JSON per request, on standard output."""
    otlp_endpoint: str | None = None
    """Base URL of an OTLP/HTTP receiver of traces; None makes none. Needs the extra `otel`."""
    trace_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Of the requests whose caller hasn't decided whether to trace them."""

    def __post_init__(self) -> None:
        url = self.otlp_endpoint
        if url is not None and not re.fullmatch(r"https?://[^/?#]+[^?#]*", url):
            raise ValueError(
                "`otlp_endpoint` must be the base URL of an OTLP/HTTP receiver, such as "
                f'"http://collector:4318", got "{url}"'
            )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    base: Literal["auto", "cpu", "gpu"] | None = None
    """The shipped profile that a file changes, `auto`: that of the vLLM which is installed."""
    server: ServerSettings = ServerSettings()
    router: RouterSettings = RouterSettings()
    brownout: BrownoutSettings = BrownoutSettings()
    engine: EngineSettings = EngineSettings()
    autoscale: AutoscaleSettings = AutoscaleSettings()
    ray: RaySettings = RaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    def __post_init__(self) -> None:
        num_gpus = self.ray.num_gpus_per_replica
        if not num_gpus:
            return
        if num_gpus < self.engine.tensor_parallel_size > 1:
            raise ValueError(
                f"`ray.num_gpus_per_replica` = {num_gpus:g} is less than "
                f"`engine.tensor_parallel_size` = {self.engine.tensor_parallel_size}"
            )
        if num_gpus < (part := self.engine.gpu_memory_utilization or VLLM_GPU_MEMORY_UTILIZATION):
            raise ValueError(
                f"`engine.gpu_memory_utilization` = {part:g} is more of a card than "
                f"`ray.num_gpus_per_replica` = {num_gpus:g} gives an engine"
            )


def load_settings(path: Path | None, device: Profile = "gpu") -> Settings:
    """The settings in `path`, or the defaults. Relative paths in it are resolved beside the file.
    `device` is what `base = "auto"` means here.

    Raises `SettingsError`.
    """
    if path is None:
        return Settings()
    data = _read(path)
    base = device if data.get("base") == "auto" else data.get("base")
    if base in get_args(Profile):
        data = _over(_read(config_dir() / f"{base}.toml"), data)
    try:
        return convert(data, Settings)
    except StrictError as exc:
        raise SettingsError(f"{path}: {exc}") from exc


def read_toml(path: Path) -> dict[str, object]:
    """Raises `SettingsError` where the file is missing or isn't TOML."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not valid TOML: {exc}") from exc


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """What tells a watched file from what was there before; None while there is none. It follows
    links, so that swapping one (a mounted ConfigMap or Secret) is a change like any other."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def config_dir() -> Path:
    """Where the shipped `configs/` lie: inside an installed package, else in the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def _read(path: Path) -> dict[str, object]:
    """What the file says, its relative paths resolved."""
    data = read_toml(path)
    for table, key in _PATHS:
        values = data.get(table)
        if isinstance(values, dict) and isinstance(value := values.get(key), str):
            is_repository = key == "model" and not value.startswith(".")
            values[key] = value if is_repository else os.path.abspath(path.parent / value)
    return data


_PATHS = (
    ("server", "keys_file"),
    ("router", "presets"),
    ("router", "engine_file"),
    ("engine", "model"),
    ("engine", "log_dir"),
)


def _over(below: dict[str, object], data: dict[str, object]) -> dict[str, object]:
    """Key by key, table by table."""
    merged = below | data
    for table, values in data.items():
        under = below.get(table)
        if isinstance(values, dict) and isinstance(under, dict):
            merged[table] = under | values
    return merged
