"""Hugging Face and ModelScope: what a repository holds, where each file is, and the words for their
refusals. The requests are `serve.models.http`'s.

Both APIs are those that the hubs' own clients call (huggingface_hub 2.4, `HfApi.model_info` with
`files_metadata` and `hf_hub_url`; modelscope_hub 0.5, `LegacyClient.list_repo_files` and
`get_download_url`); tests hold the stand-in hub against these clients.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from serve.models.store import HubName, ModelError, is_plain

T = TypeVar("T")
Get = Callable[[str], bytes]
"""The body of a URL."""
Algorithm = Literal["sha256", "git"]
_HEX: Mapping[Algorithm, str] = {"sha256": "[0-9a-f]{64}", "git": "[0-9a-f]{40}"}


@dataclass(frozen=True, slots=True)
class Digest:
    """What the hub knows of the content. `git` is git's own name for it: SHA-1 over "blob", its
    length and the bytes."""

    algorithm: Algorithm
    value: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`digest` is None where the hub gives none."""

    name: str
    size: int
    digest: Digest | None
    url: str


@dataclass(frozen=True, slots=True)
class Listing:
    commit: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Hub:
    """`list_files` takes what gets a URL, the endpoint, the repository and the revision."""

    name: HubName
    endpoint: str
    endpoint_env: str
    token_env: str
    revision: str
    list_files: Callable[[Get, str, str, str], Listing]
    token_headers: Callable[[str], Mapping[str, str]]

    def endpoint_here(self) -> str:
        """The hub's, or the mirror that the environment names."""
        return os.environ.get(self.endpoint_env) or self.endpoint

    def credentials(self) -> Mapping[str, str]:
        """Headers with the token, if there is one. Raises `ModelError`, which doesn't tell it."""
        token = os.environ.get(self.token_env, "").strip()
        if not re.fullmatch("[!-~]*", token):
            raise ModelError(f"{self.token_env} has characters that no token has")
        return self.token_headers(token) if token else {}


class _Lfs(msgspec.Struct):
    sha256: str


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    blob_id: str | None = msgspec.field(default=None, name="blobId")
    lfs: _Lfs | None = None


class _ModelInfo(msgspec.Struct):
    sha: str
    siblings: list[_Sibling]


class _Entry(msgspec.Struct, rename="pascal"):
    path: str
    type: str = "blob"
    size: int = 0
    sha256: str | None = None


class _Files(msgspec.Struct, rename="pascal"):
    files: list[_Entry]


class _Answer(msgspec.Struct, rename="pascal"):
    data: _Files


def _on_huggingface(get: Get, endpoint: str, repo: str, revision: str) -> Listing:
    url = f"{endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    info = _decoded(get(url), _ModelInfo, url)
    place = f"{endpoint}/{repo}/resolve/{quote(info.sha, safe='')}"
    files = []
    for it in info.siblings:
        if it.size is None:
            raise ModelError(f"{endpoint} gives no size of {it.rfilename}; use another --endpoint")
        digest = _digest("sha256", it.lfs.sha256, endpoint) if it.lfs else None
        if digest is None and it.blob_id:
            digest = _digest("git", it.blob_id, endpoint)
        files.append(RemoteFile(it.rfilename, it.size, digest, f"{place}/{quote(it.rfilename)}"))
    return Listing(info.sha, tuple(files))


def _on_modelscope(get: Get, endpoint: str, repo: str, revision: str) -> Listing:
    place = f"{endpoint}/api/v1/models/{repo}/repo"
    url = f"{place}/files?{urlencode({'Revision': revision, 'Recursive': 'True'})}"
    files = []
    for it in _decoded(get(url), _Answer, url).data.files:
        if it.type != "tree":
            digest = _digest("sha256", it.sha256, endpoint) if it.sha256 else None
            query = urlencode({"Revision": revision, "FilePath": it.path})
            files.append(RemoteFile(it.path, it.size, digest, f"{place}?{query}"))
    return Listing(None, tuple(files))


def _digest(algorithm: Algorithm, text: str, endpoint: str) -> Digest:
    """Becomes part of a file's name, so it must be one. Raises `ModelError`."""
    value = text.lower()
    if not re.fullmatch(_HEX[algorithm], value):
        raise ModelError(f"{endpoint} gives {text!r} for a checksum; use another --endpoint")
    return Digest(algorithm, value)


def _decoded(body: bytes, kind: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ModelError(f"{url} doesn't answer as that hub does: {exc}") from exc


HUBS: Mapping[HubName, Hub] = {
    "huggingface": Hub(
        name="huggingface",
        endpoint="https://huggingface.co",
        endpoint_env="HF_ENDPOINT",
        token_env="HF_TOKEN",
        revision="main",
        list_files=_on_huggingface,
        token_headers=lambda token: {"Authorization": f"Bearer {token}"},
    ),
    "modelscope": Hub(
        name="modelscope",
        endpoint="https://modelscope.cn",
        endpoint_env="MODELSCOPE_ENDPOINT",
        token_env="MODELSCOPE_API_TOKEN",
        revision="master",
        list_files=_on_modelscope,
        token_headers=lambda token: {
            "Authorization": f"Bearer {token}",
            "Cookie": f"m_session_id={token}",
        },
    ),
}


_KEPT = (".json", ".model", ".tiktoken", ".txt", ".jinja", ".py")
_NOTICES = ("LICENSE", "LICENCE", "NOTICE")
_PYTORCH_INDEX = "pytorch_model.bin.index.json"


def serving_files(listing: Listing, repo: str) -> tuple[RemoteFile, ...]:
    """What vLLM reads of the repository's own directory (it looks into no folder), and the licence.

    Weights once: safetensors, else PyTorch's. Raises `ModelError` where there is no model in it.
    """
    files = {file.name: file for file in listing.files if is_plain(file.name)}
    if "config.json" not in files:
        raise ModelError(f"{repo} has no config.json: it holds no model that vLLM serves")
    safetensors = {name for name in files if name.endswith(".safetensors")}
    # Mistral's repositories hold the same weights once more under this name.
    weights = {name for name in safetensors if not name.startswith("consolidated")} or safetensors
    left_out = {_PYTORCH_INDEX} if weights else set()
    if not weights:
        weights = {name for name in files if fnmatchcase(name, "pytorch_model*.bin")}
    if not weights:
        raise ModelError(
            f"{repo} has no weights that are safetensors or PyTorch's; it holds {', '.join(files)}"
        )
    return tuple(
        file
        for name, file in files.items()
        if name in weights
        or (name.endswith(_KEPT) and name not in left_out)
        or name.upper().startswith(_NOTICES)
    )
