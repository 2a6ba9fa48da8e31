from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from serve import __version__
from tests.conftest import R1_SERVE, ROOT, Program


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*R1_SERVE, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"} | env,
        timeout=60,
        check=False,
    )


def test_version_is_printed() -> None:
    """The version comes from the package."""
    done = run("version")
    assert done.returncode == 0
    assert f"r1-serve {__version__}" in done.stdout


@pytest.mark.parametrize(
    "command", ["up", "restart", "engine", "router", "version", "key", "doctor"]
)
def test_every_command_has_help(command: str) -> None:
    """`--help` says what the command does."""
    done = run(command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["router"], "give --engine-url, --engine-dns or --engine-file"),
        (
            ["router", "--engine-url", "http://a:1", "--engine-dns", "http://b:1"],
            "`router.engine_urls` and `router.engine_dns`",
        ),
        (["router", "--engine-file", "/no/engines"], "/no/engines: No such file"),
        (["router", "--engine-dns", "https://b"], "use http://name:port"),
        (["router", "--engine-url", "http://127.0.0.1:1", "--port", "70000"], "`server.port`"),
        (["router", "--engine-url", "x", "--config", "/nowhere.toml"], "/nowhere.toml: No such"),
        (["router", "--engine-url", "http://127.0.0.1:1", "--host", "0.0.0.0"], "allow_anonymous"),
    ],
)
def test_wrong_settings_are_a_sentence_and_status_2(arguments: list[str], words: str) -> None:
    """No traceback: what is wrong, on standard error."""
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_names_the_right_one(tmp_path: Path) -> None:
    """The file, the key and the nearest right key."""
    config = tmp_path / "t.toml"
    config.write_text("[engine]\nmax_model_length = 4096\n")
    done = run("router", "--engine-url", "http://127.0.0.1:1", "--config", str(config))
    assert done.returncode == 2
    assert "did you mean `max_model_len`?" in done.stderr
    assert str(config) in done.stderr


def test_the_command_line_replaces_the_source_in_the_settings(tmp_path: Path) -> None:
    """`--engine-file` over settings that name URLs isn't a contradiction."""
    config = tmp_path / "t.toml"
    config.write_text('[router]\nengine_urls = ["http://a:1"]\n')
    done = run("router", "--config", str(config), "--engine-file", "/no/engines")
    assert done.returncode == 2
    assert "/no/engines: No such file" in done.stderr


def test_the_engines_command_can_be_printed(fake_vllm_env: dict[str, str]) -> None:
    """`--print-argv` gives a line for the shell and starts nothing."""
    done = run("engine", "--print-argv", "--model", "org/name", "--port", "8299", **fake_vllm_env)
    assert done.returncode == 0, done.stderr
    assert "-m vllm.entrypoints.openai.api_server --model org/name --port 8299" in done.stdout
    assert "--served-model-name name" in done.stdout
    assert "VLLM_NO_USAGE_STATS=1" in done.stdout


def test_up_does_not_start_engines_for_an_open_address(fake_vllm_env: dict[str, str]) -> None:
    """Without keys, on another address than loopback: told at once, with the remedies."""
    done = run("up", "--host", "0.0.0.0", **fake_vllm_env)
    assert done.returncode == 2
    assert "r1-serve key create" in done.stderr
    assert "Engine" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('[server]\nkeys_file = "gone.toml"', "gone.toml: No such file"),
        ('[router]\npresets = "gone.toml"', "gone.toml: No such file"),
        ('[router]\ndefault_preset = "maths"', "did you mean `math`?"),
        ('[telemetry]\notlp_endpoint = "http://a:4318"', 'pip install "r1-serve[otel]"'),
        ("[telemetry]\naccess_log = true", "standard output, which is closed"),
    ],
)
def test_up_does_not_start_engines_for_a_router_that_could_not_serve(
    settings: str, words: str, tmp_path: Path, fake_vllm_env: dict[str, str]
) -> None:
    """What only the router needs is looked at first: files, packages, standard output."""
    config = tmp_path / "t.toml"
    config.write_text(f'base = "cpu"\n{settings}\n')
    missing = tmp_path / "missing" / "opentelemetry"
    missing.mkdir(parents=True)
    (missing / "__init__.py").touch()
    path = f"{missing.parent}:{fake_vllm_env['PYTHONPATH']}"
    command = [*R1_SERVE, "up", "--config", str(config), "--port", "0"]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Engines" not in done.stderr


def test_a_missing_model_is_told_without_a_traceback(fake_vllm_env: dict[str, str]) -> None:
    """Status 1, the path, and what to do."""
    done = run("up", "--model", "/no/such/model", "--port", "0", **fake_vllm_env)
    assert done.returncode == 1
    assert "The model /no/such/model was not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_router_needs_no_heavy_imports() -> None:
    """The router's process never imports torch, vLLM or Ray."""
    code = (
        "import sys, serve.cli, serve.server, serve.router, serve.launch\n"
        "print([m for m in ('torch', 'vllm', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_router_starts_quickly_and_ends_with_status_0() -> None:
    """Alone over an engine that isn't there: alive, not ready, and SIGTERM is a clean end."""
    program = Program("router", "--engine-url", "http://127.0.0.1:9", "--port", "0")
    try:
        line = program.wait_for("Serving ", 20)
        url = next(word for word in line.split() if word.startswith("http://"))
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/ready").status_code == 503
        assert program.stop() == 0
    finally:
        program.close()


def test_the_whole_stack_over_the_stand_in(tmp_path: Path, fake_vllm_env: dict[str, str]) -> None:
    """`up` starts the engine, serves through the router, and SIGTERM ends it with status 0."""
    (tmp_path / "config.json").touch()
    config = tmp_path / "t.toml"
    config.write_text('[engine]\nserved_name = "m"\nport = 0\n')
    program = Program(
        *("up", "--config", str(config), "--port", "0", "--model", str(tmp_path)),
        *("--served-name", "m", "--num-replicas", "2"),
        env=fake_vllm_env,
    )
    try:
        line = program.wait_for("Serving m at ", 30)
        url = next(word for word in line.split() if word.startswith("http://"))
        body = {"model": "m", "messages": [{"role": "user", "content": "1+1"}]}
        deadline = time.monotonic() + 10
        while httpx.get(url + "/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        reply = httpx.post(url + "/v1/chat/completions", json=body, timeout=20)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"]
        assert program.stop() == 0
    finally:
        program.close()
