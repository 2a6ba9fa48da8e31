"""What vLLM says when it doesn't start → what went wrong and how to mend it. Pure.

The messages are vLLM 0.32's, torch's and huggingface_hub's own; `tests/test_engine_faults.py` holds
real logs of each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an engine failed, in one sentence, and what to do about it, if that is known."""

    summary: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.summary}\n{self.remedy}" if self.remedy else self.summary


class EngineStartError(Exception):
    """An engine can't serve; `str()` is for the person who started it."""

    def __init__(self, fault: Fault, log_path: str | None = None) -> None:
        super().__init__(f"{fault}\nThe full log is {log_path}." if log_path else str(fault))
        self.fault = fault


_PREFIX = re.compile(
    r"^(\(\S+ pid=\d+\) )*"  # vLLM: (EngineCore pid=12)
    r"((DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)
_EXCEPTION = re.compile(r"^(?:[\w]+\.)*(\w*(?:Error|Exception|Interrupt))(?:: (.*))?$")
_CONSEQUENCE = "See root cause above"
"""vLLM's server repeats a failure of its core in these words, after the failure itself."""

_MEMORY_REMEDY = (
    "Free memory, or ask for less: lower `engine.gpu_memory_utilization` or `cpu_kv_cache_gib` to "
    "share the device, `max_model_len` or `max_num_seqs` to fit it, or set `kv_cache_dtype` to fp8."
)
_MODEL_REMEDY = (
    "Set `engine.model` to a directory with config.json, tokenizer and weights, or to a repository "
    "on the Hugging Face hub that this machine can reach (or has in its cache), or that `r1-serve "
    "model pull` has fetched."
)
_INSTALL_REMEDY = "`make install` installs it (PROFILE=cpu or PROFILE=gpu chooses the build)."

_RULES: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), summary, remedy)
    for pattern, summary, remedy in (
        (r"No module named '?vllm", "vLLM is not installed in this environment.", _INSTALL_REMEDY),
        (
            r"error: (?P<what>(?:unrecognized|argument |ambiguous option|the following).*)",
            "vLLM refused an argument: {what}",
            "Check `engine.extra_args` and the settings of that name; `r1-serve engine "
            "--print-argv` shows the whole command.",
        ),
        (
            r"Address already in use|EADDRINUSE",
            "The engine's port is taken.",
            "Stop that program, or set another `engine.port`.",
        ),
        (
            r"(?P<what>Free memory on device .*?)\.(?: |$)"
            r"|(?P<what1>No available memory for the cache blocks)"
            r"|(?P<what2>.{0,30}KV cache is needed, which is larger than the available.*?\))"
            r"|(?P<what3>Available memory on node .* is less than requested memory.*?\))"
            r"|(?P<what4>.*can't allocate memory.*)"
            r"|(?P<what5>(?:\w+\.)*(?:OutOfMemoryError|MemoryError).*)",
            "Not enough memory: {what}.",
            _MEMORY_REMEDY,
        ),
        (
            r"(?P<what>Insufficient space in /dev/shm .*? free)",
            "Too little shared memory: {what}.",
            "In a container give it more: `--shm-size=1g` or `--ipc=host`; in Kubernetes a memory "
            "emptyDir at /dev/shm.",
        ),
        (
            r"SafetensorError: (?P<what>.*)",
            "The model {model} has broken weights: {what}.",
            "Fetch them again; `r1-serve doctor` names the file.",
        ),
        (
            r"(?P<what>operator torchvision::nms does not exist)",
            "The installed packages don't match torch: {what}.",
            "`python -m pip uninstall torchvision torchaudio torchcodec`: a text model needs none.",
        ),
        (
            r"InvalidCxxCompiler",
            "There is no C++ compiler, with which torch compiles the model.",
            "Install g++, or name another in CXX; or set `engine.enforce_eager` = true.",
        ),
        (
            r"(?P<what>The NVIDIA driver on your system is too old)"
            r"|(?P<what1>CUDA driver version is insufficient for CUDA runtime version)",
            "{what}.",
            "Install a newer driver; `r1-serve doctor` says which.",
        ),
        (
            r"is not a local folder and is not a valid model identifier|Repository Not Found"
            r"|Invalid repository ID or local directory|LocalEntryNotFoundError"
            r"|OfflineModeIsEnabled|We couldn't connect to|HFValidationError|Repo id must"
            r"|does not appear to have a file named|Cannot find any model weights",
            "The model {model} was not found.",
            _MODEL_REMEDY,
        ),
    )
)


def explain(lines: Sequence[str], returncode: int | None, model: str) -> Fault:
    """Why the engine that wrote `lines` and exited with `returncode` (None: it runs) failed."""
    bare = [_PREFIX.sub("", line) for line in lines]
    for pattern, summary, remedy in _RULES:
        for line in bare:
            if match := pattern.search(line):
                what = next((text for text in match.groupdict().values() if text), "")
                return Fault(summary.format(what=what.strip(), model=model), remedy)
    if returncode == -9:
        return Fault(
            "The engine was killed (SIGKILL), most likely by the system for want of memory.",
            _MEMORY_REMEDY,
        )
    return Fault(last_error(bare) or f"The engine stopped with exit status {returncode}.")


def last_error(bare: Sequence[str]) -> str | None:
    """The exception that a traceback ends with; pydantic's say what is wrong on the next line."""
    for i in range(len(bare) - 1, -1, -1):
        match = _EXCEPTION.match(bare[i])
        if match is None or _CONSEQUENCE in bare[i]:
            continue
        detail = bare[i].strip()
        if match[1] == "ValidationError" and i + 1 < len(bare):
            detail = bare[i + 1].strip().removeprefix("Value error, ").partition(" [type=")[0]
        return f"vLLM: {detail}"
    return None
