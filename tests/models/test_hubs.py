from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.models.hubs import HUBS, Listing, RemoteFile, serving_files
from serve.models.store import ModelError
from tests.models.hub import running_hub

CLIENTS = """
import json, pathlib, sys
from huggingface_hub import snapshot_download
from modelscope_hub import HubApi

url, place = sys.argv[1:]
snapshot_download("org/model", endpoint=url, local_dir=place + "/hf")
HubApi(endpoint=url).download_repo("org/model", "model", local_dir=place + "/ms")
names = "config.json", "a.safetensors"
place = pathlib.Path(place)
print(json.dumps([{it: (place / of / it).read_text() for it in names} for of in ("hf", "ms")]))
"""


def test_the_hubs_own_clients_take_the_stand_in_for_a_hub(tmp_path: Path) -> None:
    """What we hold our client against is close to the hubs in what their clients go by."""
    files = {"config.json": b"{}", "a.safetensors": b"weights"}
    env = os.environ | {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path / "home"),
        "MODELSCOPE_CACHE": str(tmp_path / "cache"),
        "MODELSCOPE_HOME": str(tmp_path / "home"),
    }
    env.pop("HF_HUB_OFFLINE", None)
    with running_hub(org__model=files) as hub:
        done = subprocess.run(
            [sys.executable, "-c", CLIENTS, hub.url, str(tmp_path)],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    expected = {name: data.decode() for name, data in files.items()}
    assert json.loads(done.stdout.splitlines()[-1]) == [expected, expected]


@pytest.mark.parametrize("checksum", ["../../../etc/cron.d/x", "0" * 63, "g" * 40, ""])
def test_what_is_no_checksum_is_refused(checksum: str) -> None:
    """Of it a file's name is made."""
    for named in ({"blobId": checksum or "/"}, {"lfs": {"sha256": checksum}}):
        info = {"sha": "main", "siblings": [{"rfilename": "config.json", "size": 1} | named]}
        body = json.dumps(info).encode()
        with pytest.raises(ModelError, match="for a checksum; use another --endpoint"):
            HUBS["huggingface"].list_files(lambda url, body=body: body, "http://a", "org/m", "main")


@pytest.mark.parametrize("token", ["hf_se\ncret", "hf_se cret", "hf_sécret", "hf_se\x00cret"])
def test_a_token_that_is_none_is_told_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """Such as a file of several lines."""
    monkeypatch.setattr(os, "environ", {"HF_TOKEN": token})
    with pytest.raises(ModelError, match="HF_TOKEN has characters that no token has") as caught:
        HUBS["huggingface"].credentials()
    assert "cret" not in str(caught.value)


def chosen(*names: str) -> set[str]:
    listing = Listing(None, tuple(RemoteFile(name, 1, None, "") for name in names))
    return {file.name for file in serving_files(listing, "org/model")}


def test_the_default_models_repository() -> None:
    """Config, tokenizer, weights and licence; no text for people, no pictures."""
    needed = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    needed |= {"model.safetensors", "LICENSE"}
    assert chosen(*needed, ".gitattributes", "README.md", "figures/benchmark.jpg") == needed


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"model.safetensors", "pytorch_model.bin", "model.gguf"}, {"model.safetensors"}),
        ({"model.safetensors", "pytorch_model.bin.index.json"}, {"model.safetensors"}),
        ({"pytorch_model.bin", "training_args.bin"}, {"pytorch_model.bin"}),
        ({"model.safetensors", "consolidated.safetensors"}, {"model.safetensors"}),
        ({"consolidated.safetensors", "params.json"}, {"consolidated.safetensors", "params.json"}),
        (
            {"pytorch_model-1-of-1.bin", "pytorch_model.bin.index.json"},
            {"pytorch_model-1-of-1.bin", "pytorch_model.bin.index.json"},
        ),
        (
            {"a-1-of-1.safetensors", "model.safetensors.index.json", "onnx/a.safetensors"},
            {"a-1-of-1.safetensors", "model.safetensors.index.json"},
        ),
    ],
)
def test_weights_are_taken_once(there: set[str], taken: set[str]) -> None:
    """In the form that vLLM reads first."""
    assert chosen("config.json", *there) == {"config.json", *taken}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (["model.safetensors"], "has no config.json"),
        (["config.json", "model.gguf"], "no weights .*; it holds config.json, model.gguf"),
    ],
)
def test_what_isnt_a_model_is_told(there: list[str], words: str) -> None:
    """Before anything is fetched."""
    with pytest.raises(ModelError, match=words):
        chosen(*there)
