from __future__ import annotations

from pathlib import Path

import pytest

from serve.engine_faults import explain, last_error

LOGS = Path(__file__).parent / "data" / "engine_logs"
"""Logs of vLLM 0.32 on a CPU, each from a start that failed; tracebacks' source lines are cut."""


def read(name: str) -> list[str]:
    return (LOGS / f"{name}.log").read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "summary", "remedy"),
    [
        ("bad_flag", "unrecognized arguments: --no-such-flag", "--print-argv"),
        ("hub_offline", "The model org/model was not found.", "engine.model"),
        ("hub_unreachable", "The model org/model was not found.", "engine.model"),
        ("kv_cache_too_large", "less than requested memory for kv (5000.0 GiB)", "cpu_kv_cache"),
        ("broken_weights", "The model org/model has broken weights: Error while", "doctor"),
        ("small_shared_memory", "160 MiB required, 64 MiB free", "--shm-size"),
    ],
)
def test_real_failures_are_explained(name: str, summary: str, remedy: str) -> None:
    """A failed start becomes a sentence on what went wrong and one on what to do."""
    fault = explain(read(name), 1, "org/model")
    assert summary in fault.summary
    assert fault.remedy is not None
    assert remedy in fault.remedy


def test_an_unknown_failure_is_vllms_own_last_word() -> None:
    """Of a traceback only the message is left."""
    fault = explain(read("context_too_long"), 1, "org/model")
    assert fault.summary.startswith("vLLM: User-specified max_model_len (9999999) is greater")
    assert "[type=" not in fault.summary


@pytest.mark.parametrize(
    ("line", "summary"),
    [
        (
            "(Worker pid=9) ERROR 11-22 14:49:25 [x.py:1] torch.OutOfMemoryError: CUDA out of "
            "memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
            "Not enough memory: torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (
            "ValueError: Free memory on device cuda:0 (9.1/79.2 GiB) on startup is less than "
            "desired GPU memory utilization (0.9, 71.3 GiB). Decrease GPU memory utilization",
            "Free memory on device cuda:0 (9.1/79.2 GiB) on startup is less than desired",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (32768), "
            "(0.88 GiB KV cache is needed, which is larger than the available KV cache memory "
            "(0.5 GiB). Try increasing `gpu_memory_utilization`",
            "GiB KV cache is needed",
        ),
        ("/x/bin/python: No module named vllm", "vLLM is not installed"),
        (
            "/x/bin/python: Error while finding module specification for 'vllm.entrypoints.openai."
            "api_server' (ModuleNotFoundError: No module named 'vllm')",
            "vLLM is not installed",
        ),
        ("OSError: [Errno 98] Address already in use", "port is taken"),
        ("RuntimeError: operator torchvision::nms does not exist", "don't match torch"),
        (
            "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found "
            "in torch._inductor.config.cpp.cxx: (None, 'g++')",
            "There is no C++ compiler",
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). "
            "Please update your GPU driver",
            "The NVIDIA driver on your system is too old.",
        ),
    ],
)
def test_messages_from_the_sources_are_known(line: str, summary: str) -> None:
    """Messages of GPU memory, the port and a missing vLLM, as their sources word them."""
    fault = explain(["(APIServer pid=1) INFO 11-22 14:48:55 [a.py:1] hello", line], 1, "m")
    assert summary in fault.summary
    assert fault.remedy


def test_a_kill_from_outside_points_to_memory() -> None:
    """Without a word and by SIGKILL: mostly the system's out-of-memory killer."""
    assert "SIGKILL" in explain(["INFO all fine"], -9, "m").summary


def test_without_any_clue_the_status_is_told() -> None:
    """Nothing is made up."""
    assert explain([], 3, "m").summary == "The engine stopped with exit status 3."


def test_the_cause_is_preferred_to_its_consequence() -> None:
    """The server's "See root cause above" is skipped."""
    lines = [
        "KeyError: 'x'",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    assert last_error(lines) == "vLLM: KeyError: 'x'"
