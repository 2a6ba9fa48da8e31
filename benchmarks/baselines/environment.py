"""The guides' environment: Gradio, transformers and CPU torch, in `.venvs/guides`, made on demand.

torch and transformers have the versions that the engine's environment has; torch is found as
scripts/install.py finds it. Gradio needs other versions of FastAPI than vLLM, hence the separation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from benchmarks.peers import ROOT, VENVS, InstallError

GRADIO = "gradio==6.31.0"


def requirements() -> list[str]:
    """With the pins of requirements/cpu.txt for what both environments have."""
    pins = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    shared = ("transformers==", "tokenizers==", "safetensors==")
    return [GRADIO, *(line for line in pins if line.startswith(shared))]


def guides_python() -> Path:
    """The Python of the environment, made now if it is missing; raises `InstallError`."""
    folder = VENVS / "guides"
    python, done = folder / "bin" / "python", folder / "installed"
    torch = (ROOT / "requirements" / "torch-cpu.txt").read_text().strip()
    wanted = hashlib.sha256("\n".join([torch, *requirements()]).encode()).hexdigest()
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {GRADIO}, transformers and {torch} into .venvs/guides …", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    script = _install_script()
    try:
        script.Installer(folder, ROOT, os.environ).install_step("torch-cpu")
    except script.InstallError as error:
        raise InstallError(str(error)) from error
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, torch, *requirements()])  # torch is there: only what it needs comes
    done.write_text(wanted)
    return python


def _install_script() -> ModuleType:
    """scripts/install.py, which is no package's module."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    if spec is None or spec.loader is None:
        raise InstallError("scripts/install.py is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("ERROR")]
        raise InstallError((errors or lines or ["failed"])[-1][:300])
