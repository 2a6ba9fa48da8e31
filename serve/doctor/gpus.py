"""The NVIDIA cards here, as `nvidia-smi` tells: quicker than torch, which takes seconds to import,
and there wherever the driver is."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serve.doctor.findings import MIB

TIMEOUT_S = 10.0
_CARD_FIELDS = "index,uuid,name,driver_version,compute_cap,memory.total,memory.used"
_PROCESS_FIELDS = "gpu_uuid,pid,process_name,used_memory"


@dataclass(frozen=True, slots=True)
class InstalledGpu:
    index: int
    uuid: str
    name: str
    driver: str
    capability: tuple[int, int] | None
    total_bytes: int | None
    """None where the driver doesn't tell (memory that is shared with the CPU)."""
    used_bytes: int = 0
    users: tuple[str, ...] = ()
    """Who uses its memory: `pid 12 (python) 300 MiB`."""

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


@dataclass(frozen=True, slots=True)
class Nvidia:
    """`error`: what `nvidia-smi` said in place of an answer."""

    has_smi: bool
    gpus: tuple[InstalledGpu, ...] = ()
    error: str | None = None


def find_gpus(visible: str | None) -> Nvidia:
    """`visible` is `CUDA_VISIBLE_DEVICES`; None: all."""
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(
            _ask, (f"--query-gpu={_CARD_FIELDS}", f"--query-compute-apps={_PROCESS_FIELDS}")
        )
        try:
            cards, processes = both
        except FileNotFoundError:
            return Nvidia(has_smi=False)
        except (OSError, subprocess.SubprocessError) as exc:
            return Nvidia(has_smi=True, error=_reason(exc))
    gpus = [_gpu(row, processes) for row in cards]
    return Nvidia(True, tuple(gpu for gpu in gpus if _is_visible(gpu, visible)))


def _ask(query: str) -> list[list[str]]:
    """Rows of values. Raises `OSError` and `subprocess.SubprocessError`."""
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    lines = done.stdout.splitlines()
    return [[value.strip() for value in line.split(", ")] for line in lines if line.strip()]


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = f"{error.stdout}\n{error.stderr}".split("\n")
        return next((line.strip() for line in said if line.strip()), f"status {error.returncode}")
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {TIMEOUT_S:.0f} s"
    return str(error)


def _gpu(row: Sequence[str], processes: Sequence[Sequence[str]]) -> InstalledGpu:
    index, uuid, name, driver, capability, total, used = (*row, *[""] * 7)[:7]
    return InstalledGpu(
        index=int(index) if index.isdigit() else 0,
        uuid=uuid,
        name=name,
        driver=driver,
        capability=_capability(capability),
        total_bytes=_mib(total),
        used_bytes=_mib(used) or 0,
        users=tuple(_user(process) for process in processes if process[0] == uuid),
    )


def _user(process: Sequence[str]) -> str:
    _, pid, name, used = (*process, *[""] * 4)[:4]
    amount = f" {used} MiB" if used.isdigit() else ""
    return f"pid {pid} ({name.rpartition('/')[2]}){amount}"


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _mib(text: str) -> int | None:
    """Bytes; None for `[N/A]`."""
    return int(text) * MIB if text.isdigit() else None


def _is_visible(gpu: InstalledGpu, visible: str | None) -> bool:
    """CUDA takes indices and beginnings of UUIDs."""
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return any(name and (name == str(gpu.index) or gpu.uuid.startswith(name)) for name in names)
