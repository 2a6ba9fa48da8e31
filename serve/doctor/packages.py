"""Installed packages as their files tell, without importing any: torch alone takes seconds."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

LOOKED_AT = ("torch", "torchvision", "torchaudio", "torchcodec", "ray")
_VERSION = re.compile(r"^__version__\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_CUDA = re.compile(r"^cuda\s*(?::[^=]*)?=\s*['\"](\d+)\.(\d+)", re.MULTILINE)
_TORCH_PIN = re.compile(r"^torch\s*\(?==\s*([\w.+]+)")


@dataclass(frozen=True, slots=True)
class Package:
    version: str
    """With the build where that is known: `2.13.0+cu130`."""
    cuda: tuple[int, int] | None = None
    """The CUDA that torch was built for."""
    torch: str | None = None
    """The one version of torch that it says it works with."""

    @property
    def release(self) -> str:
        return self.version.partition("+")[0]

    @property
    def build(self) -> str:
        """`cpu`, `cu130`; empty where it isn't known."""
        return self.version.partition("+")[2]


def find_packages() -> dict[str, Package]:
    found = {name: _find(name) for name in LOOKED_AT}
    return {name: package for name, package in found.items() if package is not None}


def _find(name: str) -> Package | None:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    # A wheel from PyPI names its build only here.
    try:
        text = distribution.locate_file(f"{name}/version.py").read_text()
    except OSError:
        text = ""
    told, cuda = _VERSION.search(text), _CUDA.search(text)
    version = distribution.version
    if told and told[1].startswith(f"{version}+"):
        version = told[1]
    pins = [pin[1] for line in distribution.requires or () if (pin := _TORCH_PIN.match(line))]
    return Package(
        version, (int(cuda[1]), int(cuda[2])) if cuda else None, pins[0] if pins else None
    )


def pinned_version(name: str) -> str | None:
    """What r1-serve itself was made for; None where it isn't installed as a package."""
    try:
        lines = importlib.metadata.requires("r1-serve") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    pin = re.compile(rf"^{name}\s*\(?==\s*([\w.+]+)")
    return next((match[1] for line in lines if (match := pin.match(line))), None)
