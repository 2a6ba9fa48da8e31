from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.models.check import check_model, safetensors_problem
from serve.models.store import MANIFEST, Manifest, ModelError, ModelFile, complete_manifest
from tests.conftest import ROOT
from tests.models.hub import sha256

DEMO = ROOT / "demo_model" / "weights"


def safetensors(num_bytes: int = 16) -> bytes:
    header = {"__metadata__": {"format": "pt"}}
    header["a"] = {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\1" * num_bytes


FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": safetensors()}


@pytest.fixture
def pulled(tmp_path: Path) -> Path:
    """A directory with a manifest."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    manifest = Manifest(
        repo="org/model",
        hub="huggingface",
        endpoint="https://huggingface.co",
        revision="main",
        commit="c" * 40,
        files={name: ModelFile(len(data), sha256(data)) for name, data in FILES.items()},
    )
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return tmp_path


def damage(directory: Path, *, hashes: bool = True) -> list[str]:
    return [str(it) for it in check_model(directory, hashes=hashes).damage]


def test_an_unbroken_model_is_read_whole(pulled: Path) -> None:
    """Every byte of it."""
    read: list[int] = []
    found = check_model(pulled, read.append)
    assert found.damage == ()
    assert found.manifest == complete_manifest(pulled)
    assert sum(read) == sum(map(len, FILES.values()))


def test_each_wrong_file_is_named(pulled: Path) -> None:
    """Missing, short, or with another byte in it."""
    (pulled / "config.json").unlink()
    (pulled / "tokenizer.json").write_bytes(b"{")
    broken = FILES["model.safetensors"][:-1] + b"\0"
    (pulled / "model.safetensors").write_bytes(broken)
    assert damage(pulled) == [
        "config.json is missing",
        "model.safetensors is broken: its bytes aren't those that were pulled (SHA-256)",
        "tokenizer.json has 1 bytes in place of 2",
    ]
    assert complete_manifest(pulled) is None


def test_without_hashes_sizes_and_headers_are_looked_at(pulled: Path) -> None:
    """A broken tensor isn't seen, a broken header is."""
    data = FILES["model.safetensors"]
    (pulled / "model.safetensors").write_bytes(data[:-1] + b"\0")
    assert damage(pulled, hashes=False) == []
    (pulled / "model.safetensors").write_bytes(b"\0" + data[1:])
    assert damage(pulled, hashes=False) == [
        "model.safetensors is no safetensors file, or was cut in its header"
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"\xff",
        b'{"format": 2}',
        b'{"repo": "a/b", "hub": "huggingface", "endpoint": "", "revision": "", "commit": null,'
        b' "files": {"../x": {"size": 1, "sha256": ""}}}',
    ],
)
def test_an_unreadable_manifest_is_told(pulled: Path, text: bytes) -> None:
    """It is no reason to think that there is none, nor to look at files elsewhere."""
    (pulled / MANIFEST).write_bytes(text)
    with pytest.raises(ModelError, match=MANIFEST):
        check_model(pulled)
    assert complete_manifest(pulled) is None


def test_the_demo_model_is_sound_by_itself() -> None:
    """It has no manifest."""
    found = check_model(DEMO)
    assert (found.manifest, found.damage) == (None, ())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {},
            [
                "config.json is missing",
                "tokenizer.json is missing, and there is no other tokenizer",
                "model.safetensors is missing, and there are no other weights",
            ],
        ),
        (FILES | {"config.json": b"{"}, ["config.json is no JSON: Expecting"]),
        (
            FILES | {"model.safetensors": safetensors()[:-3]},
            ["model.safetensors has 117 bytes in place of 120"],
        ),
        (
            FILES
            | {
                "model.safetensors.index.json": b'{"weight_map": {"a": "model.safetensors", "b": '
                b'"model-2.safetensors"}}'
            },
            ["model-2.safetensors is missing"],
        ),
        (
            FILES | {"model.safetensors.index.json": b"[]"},
            ["model.safetensors.index.json is no index of weights"],
        ),
    ],
)
def test_without_a_manifest_files_are_asked_about_themselves(
    tmp_path: Path, files: dict[str, bytes], expected: list[str]
) -> None:
    """Headers against lengths, the index against what is there."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = damage(tmp_path)
    assert len(found) == len(expected)
    for line, words in zip(found, expected, strict=True):
        assert line.startswith(words)


@given(st.binary(max_size=64), st.integers(0, 2**64 - 1))
def test_no_bytes_are_too_odd(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, n: int
) -> None:
    """Whatever is in the file, it is told in words."""
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    for length in (n, len(rest)):
        path.write_bytes(length.to_bytes(8, "little") + rest)
        assert safetensors_problem(path) is not None


def test_every_cut_of_a_safetensors_file_is_seen(tmp_path: Path) -> None:
    """At any byte."""
    path = tmp_path / "a.safetensors"
    data = safetensors()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert safetensors_problem(path) is not None
    path.write_bytes(data)
    assert safetensors_problem(path) is None
