from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from serve.engine import Machine, engine_command
from serve.models.store import (
    MANIFEST,
    WORK,
    Manifest,
    ModelFile,
    complete_model,
    is_repo,
    model_dir,
    store_dir,
    stored_models,
)
from serve.settings import EngineSettings

MODEL = Manifest(
    repo="org/model",
    hub="modelscope",
    endpoint="https://modelscope.cn",
    revision="master",
    commit=None,
    files={"config.json": ModelFile(2, "0" * 64)},
)


def put(store: Path, manifest: Manifest = MODEL, name: str = "org/model") -> Path:
    directory = model_dir(store, name)
    directory.mkdir(parents=True)
    (directory / "config.json").write_bytes(b"{}")
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return directory


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HOME": "/home/x"}, "/home/x/.cache/r1-serve/models"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "/c"}, "/c/r1-serve/models"),
        ({"R1_SERVE_MODELS": "/models", "XDG_CACHE_HOME": "/c"}, "/models"),
    ],
)
def test_the_store_is_in_the_cache_or_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
) -> None:
    """One variable moves it."""
    monkeypatch.setattr(os, "environ", env)
    assert store_dir() == Path(expected)


def test_a_user_without_a_home_has_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a bare number."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert store_dir() == Path("/.cache/r1-serve/models")


@pytest.mark.parametrize(
    "name", ["model", "/a/b", "./a", "a/b/c", "a/..", "a/-b", "a--b/c", "a/b\n"]
)
def test_what_is_no_repository(name: str) -> None:
    """Paths above all."""
    assert not is_repo(name)


def test_the_store_tells_what_it_holds(tmp_path: Path) -> None:
    """Complete or not; other directories are none of its own."""
    whole = put(tmp_path)
    begun = model_dir(tmp_path, "org/begun") / WORK
    begun.mkdir(parents=True)
    (begun / "model.safetensors.0").write_bytes(b"123")
    (tmp_path / "lost+found").mkdir()
    first, second = stored_models(tmp_path)
    assert (first.repo, first.complete, first.num_bytes) == ("org/begun", False, 3)
    assert (second.repo, second.complete, second.path) == ("org/model", True, whole)
    assert stored_models(tmp_path / "none") == []


def test_only_what_is_complete_is_served_from_the_store(tmp_path: Path) -> None:
    """And under its own name; else vLLM is given the repository's."""
    machine = Machine(device="gpu", vllm_version="0.32.0", model_store=tmp_path)

    def served(model: str) -> str:
        return engine_command(EngineSettings(model=model), machine, port=1).argv[4]

    assert served("org/model") == "org/model"
    directory = put(tmp_path)
    assert served("org/model") == str(directory)
    put(tmp_path, name="org/other")
    assert complete_model(tmp_path, "org/other") is None
    (directory / "config.json").unlink()
    assert served("org/model") == "org/model"


@pytest.mark.parametrize(
    ("extra_args", "is_stored"),
    [
        (["--revision", "abc"], False),
        (["--tokenizer_revision=abc"], False),
        (["--tokenizer", "org/other"], False),
        (["--hf-config-path=org/other"], False),
        (["--speculative-config", '{"model": "org/draft"}'], False),
        (["--speculative-config.model=org/draft"], False),
        (["--lora-modules", "sums=org/adapter"], False),
        (["--speculative-config", '{"method": "ngram"}'], True),
        (["--tokenizer", "/models/tokenizer"], True),
        (["--tokenizer-mode", "slow"], True),
    ],
)
def test_what_extra_arguments_ask_of_a_hub_is_not_served_from_the_store(
    tmp_path: Path, extra_args: list[str], is_stored: bool
) -> None:
    """Another revision, or something from another repository, which an offline engine can't get."""
    machine = Machine(device="gpu", vllm_version="0.32.0", model_store=tmp_path)
    put(tmp_path)
    settings = EngineSettings(model="org/model", extra_args=extra_args)
    command = engine_command(settings, machine, port=1)
    assert (command.argv[4] != "org/model") == is_stored
    assert ("HF_HUB_OFFLINE" in command.env) == is_stored
