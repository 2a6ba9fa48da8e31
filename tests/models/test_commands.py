from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from serve.models.commands import model_app
from serve.models.store import MANIFEST, WORK, model_dir
from tests.conftest import R1_SERVE, ROOT, Program
from tests.models.hub import Fault, Hub, running_hub
from tests.stack import wait_until

WEIGHTS = bytes(i * i % 253 for i in range(400_000))
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
REPO = "org/model"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(org__model=FILES) as hub:
        yield hub


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(model_app, arguments, env=env)


def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {"R1_SERVE_MODELS": str(tmp_path / "store"), "HF_ENDPOINT": hub.url}


def part_size(directory: Path) -> int:
    return sum(part.stat().st_size for part in directory.glob(f"{WORK}/model.safetensors.*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_it_goes_on_at_that_byte(hub: Hub, tmp_path: Path, number: int) -> None:
    """And when it could say good-bye it leaves nothing but what it has fetched."""
    directory = model_dir(tmp_path / "store", REPO)
    hub.fault("model.safetensors", Fault(hold_after=123_457, cut_after=123_457))
    program = Program("model", "pull", REPO, env=env(hub, tmp_path))
    assert wait_until(lambda: part_size(directory) >= 123_457, timeout_s=20), program.log()
    assert program.stop(number) == (-9 if number == signal.SIGKILL else 130)
    left = {path.name.partition(".")[0] for path in (directory / WORK).iterdir()}
    if number == signal.SIGKILL:
        left.remove("lock")
    else:
        assert "Stopped; the same command goes on from here." in program.log()
    assert left == {"config", "tokenizer", "model"}
    assert not (directory / MANIFEST).exists()
    hub.release.set()
    done = run("pull", REPO, **env(hub, tmp_path))
    assert (done.exit_code, done.stdout) == (0, f"{directory}\n"), done.stderr
    assert {it.name for it in directory.iterdir()} == {*FILES, MANIFEST}
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.num_sent["model.safetensors"] == len(WEIGHTS)


def test_pull_list_verify_mend(hub: Hub, tmp_path: Path) -> None:
    """The way of a model, in the words of the commands."""
    where, directory = env(hub, tmp_path), model_dir(tmp_path / "store", REPO)
    assert "No models in" in run("list", **where).stdout
    done = run("pull", REPO, **where)
    assert "Fetching org/model: 0 bytes of 400.0 kB" in done.stderr
    assert done.stdout.strip() == str(directory)
    (listed,) = json.loads(run("list", "--json", **where).stdout)
    assert (listed["repo"], listed["complete"], listed["path"]) == (REPO, True, str(directory))
    assert "3 files, 400.0 kB, all as pulled" in run("verify", REPO, **where).stdout

    (directory / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"\xff")
    done = run("verify", str(directory), **where)
    assert done.exit_code == 1
    assert f"{directory}/model.safetensors is broken" in done.stdout
    assert f"Mend it with: r1-serve model pull {REPO} --repair\n" in done.stderr
    assert run("pull", REPO, "--repair", **where).exit_code == 0
    assert run("verify", REPO, **where).exit_code == 0

    (directory / "config.json").unlink()
    assert f"incomplete  {directory}" in run("list", **where).stdout


def test_the_remedy_names_where_the_rest_came_from(hub: Hub, tmp_path: Path) -> None:
    """Hub, mirror and directory."""
    there = str(tmp_path / "a model")
    source = ["--to", there, "--hub", "modelscope", "--endpoint", hub.url]
    assert run("pull", REPO, *source).exit_code == 0
    (tmp_path / "a model" / "config.json").unlink()
    done = run("verify", there)
    assert done.exit_code == 1
    command = f"pull {REPO} --repair --to '{there}' --hub modelscope --endpoint {hub.url}"
    assert command in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["pull", "model"], 2, "`model` is no repository; write owner/name"),
        (["pull", REPO, "--endpoint", "hf-mirror.com"], 2, "write https://name"),
        (["pull", REPO, "--endpoint", "http://[::1"], 2, "write https://name"),
        (["pull", REPO, "--endpoint", "http://host:abc"], 2, "write https://name"),
        (["pull", REPO, "--endpoint", "http://a..b"], 2, "write https://name"),
        (["pull", REPO, "--endpoint", "http://a/b c"], 2, "write https://name"),
        (["verify", "/no/such"], 1, "There is no directory /no/such"),
        (["verify", REPO], 1, "`r1-serve model pull org/model` fetches it"),
    ],
)
def test_mistakes_are_a_sentence(
    tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    """An exit status, no traceback."""
    done = run(*arguments, R1_SERVE_MODELS=str(tmp_path))
    assert done.exit_code == status
    assert words in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_a_password_in_the_endpoint_is_refused_and_not_shown(tmp_path: Path) -> None:
    """Wherever it comes from."""
    done = run(
        *("pull", REPO),
        R1_SERVE_MODELS=str(tmp_path),
        HF_ENDPOINT="https://me:secret@mirror.internal",
    )
    assert done.exit_code == 2
    assert "with a user isn't supported" in done.stderr
    assert "secret" not in done.output


@pytest.mark.parametrize("arguments", [["list"], ["verify", REPO]])
def test_a_disk_that_refuses_is_a_sentence(arguments: list[str], tmp_path: Path) -> None:
    """As of a store that this user may not read; here its name is too long for a file's."""
    done = run(*arguments, R1_SERVE_MODELS=str(tmp_path / ("x" * 300)))
    assert done.exit_code == 1
    assert "r1-serve: [Errno 36] File name too long" in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_a_pulled_model_is_served_offline_from_its_directory(
    tmp_path: Path, fake_vllm_env: dict[str, str]
) -> None:
    """Named by its repository: before the pull vLLM would fetch it itself."""
    weights = ROOT / "demo_model" / "weights"
    demo = {path.name: path.read_bytes() for path in weights.iterdir()}
    with running_hub(r1__demo=demo) as hub:
        where = env(hub, tmp_path) | fake_vllm_env
        before = engine_argv("r1/demo", where)
        assert run("pull", "r1/demo", **where).exit_code == 0
    directory = model_dir(tmp_path / "store", "r1/demo")
    assert {path.name for path in directory.iterdir()} == {*demo, MANIFEST}
    after = engine_argv("r1/demo", where)
    assert "--model r1/demo" in before
    assert "HF_HUB_OFFLINE" not in before
    assert f"--model {directory}" in after
    assert "HF_HUB_OFFLINE=1" in after
    assert "--served-model-name demo" in before
    assert "--served-model-name demo" in after


def engine_argv(model: str, where: dict[str, str]) -> str:
    command = [
        *R1_SERVE,
        "engine",
        "--config",
        "configs/cpu.toml",
        "--model",
        model,
        "--print-argv",
    ]
    done = subprocess.run(
        command, env=os.environ | where, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
