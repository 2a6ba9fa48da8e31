"""The contenders of the router benchmark: how each is installed, started and known to be ready.

Peers come from PyPI at a fixed version, each in its own environment under `.venvs/`, made on
demand; one that cannot be installed is left out by the caller. Each runs with its defaults but
for: one engine, loopback, quiet logs, one worker, no telemetry.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import free_port

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venvs"


class InstallError(RuntimeError):
    """pip could not install a peer; the message is pip's last error."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Where to start a contender."""

    engine_url: str
    model: str
    port: int
    python: Path
    scratch: Path  # a folder for its files

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Contender:
    """One router, or `direct` with none.

    `relaxed` names dependencies whose bounds are dropped when the plain install fails: a package
    index that lags behind has the peer itself, but not yet the newest of these.
    """

    name: str
    reads: str  # what it does with the stream
    requirement: str = ""
    relaxed: tuple[str, ...] = ()
    argv: Callable[[Launch], list[str]] | None = None
    ready: str = "/health"
    env: dict[str, str] = field(default_factory=dict)


def _ours(at: Launch) -> list[str]:
    path = at.scratch / "r1-serve.toml"
    path.write_text('[server]\nlog_level = "warning"\n')
    argv = [sys.executable, "-m", "serve", "router", "--engine-url", at.engine_url]
    return [*argv, "--host", "127.0.0.1", "--port", str(at.port), "--config", str(path)]


def _two_of_ours(at: Launch) -> list[str]:
    return [*_ours(at), "--workers", "2"]


def _vllm_router(at: Launch) -> list[str]:
    argv = [str(at.python.parent / "vllm-router"), "--worker-urls", at.engine_url]
    argv += ["--host", "127.0.0.1", "--port", str(at.port), "--policy", "round_robin"]
    return [*argv, "--log-level", "warning", "--prometheus-port", str(free_port())]


def _sglang_router(at: Launch) -> list[str]:
    argv = [str(at.python), "-m", "sglang_router.launch_router", "--worker-urls", at.engine_url]
    argv += ["--host", "127.0.0.1", "--port", str(at.port), "--policy", "round_robin"]
    return [*argv, "--log-level", "warn", "--prometheus-port", str(free_port())]


def _litellm(at: Launch) -> list[str]:
    parameters = {"model": f"openai/{at.model}", "api_base": at.engine_url + "/v1", "api_key": "-"}
    config = {
        "model_list": [{"model_name": at.model, "litellm_params": parameters}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"disable_spend_logs": True},
    }
    path = at.scratch / "litellm.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    argv = [str(at.python.parent / "litellm"), "--config", str(path), "--num_workers", "1"]
    return [*argv, "--host", "127.0.0.1", "--port", str(at.port)]


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("direct", "-"),
        Contender("r1-serve", "splits the trace", argv=_ours, ready="/ready"),
        Contender("r1-serve-2", "splits the trace", argv=_two_of_ours, ready="/ready"),
        Contender("vllm-router", "copies bytes", "vllm-router==0.1.17", argv=_vllm_router),
        Contender("sglang-router", "copies bytes", "sglang-router==0.3.2", argv=_sglang_router),
        Contender(
            "litellm",
            "re-encodes chunks",
            "litellm[proxy]==1.109.1",
            relaxed=("certifi", "litellm-proxy-extras", "litellm-enterprise"),
            argv=_litellm,
            ready="/health/liveliness",
            env={
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
                "LITELLM_TELEMETRY": "False",
            },
        ),
    )
}

# Run by the peer's own Python: its requirements, with some packages' bounds dropped.
_RELAX = """
import importlib.metadata, re, sys
from pip._vendor.packaging.requirements import Requirement
wanted, relaxed = Requirement(sys.argv[1]), sys.argv[2].split(",")
for line in importlib.metadata.requires(wanted.name) or ():
    need = Requirement(line)
    extras = ("", *wanted.extras)
    if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
        extra = f"[{','.join(sorted(need.extras))}]" if need.extras else ""
        print(need.name + extra + ("" if need.name in relaxed else str(need.specifier)))
"""


def install(contender: Contender) -> Path:
    """The Python of the contender's environment, made now if missing; raises `InstallError`."""
    if not contender.requirement:
        return Path(sys.executable)
    folder = VENVS / contender.name
    python, done = folder / "bin" / "python", folder / "installed"
    if done.is_file() and done.read_text() == contender.requirement:
        return python
    print(f"installing {contender.requirement} into .venvs/{contender.name} …", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        _run([*pip, contender.requirement])
    except InstallError:
        if not contender.relaxed:
            raise
        _run([*pip, "--no-deps", contender.requirement])
        relaxed = [str(python), "-c", _RELAX, contender.requirement, ",".join(contender.relaxed)]
        _run([*pip, *_run(relaxed).split()])
    done.write_text(contender.requirement)
    return python


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InstallError((errors or done.stderr.splitlines() or ["failed"])[-1][:300])
    return done.stdout
