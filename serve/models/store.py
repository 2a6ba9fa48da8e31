"""Where pulled models lie, and the manifest that makes a directory a complete model.

A model is a plain directory that vLLM serves as it is. `r1-model.json` in it, written last, holds
size and SHA-256 of each file: a directory with a manifest and all files of these sizes is complete.
`serve.models.pull` makes them, `serve.models.check` reads the bytes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

HubName = Literal["huggingface", "modelscope"]
MANIFEST = "r1-model.json"
WORK = ".r1-pull"
"""Beside the model's files: what a pull has fetched so far, and its lock."""
STORE_ENV = "R1_SERVE_MODELS"
_REPO = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)


class ModelError(Exception):
    """A model can't be pulled or read; the message says what to do."""


class ModelFile(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled, and from where. `commit` is None where the hub names none (ModelScope)."""

    format: Literal[1] = 1
    repo: str
    hub: HubName
    endpoint: str
    revision: str
    commit: str | None
    files: dict[str, ModelFile]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One directory of the store; `manifest` is None while it was never complete."""

    repo: str
    path: Path
    manifest: Manifest | None
    complete: bool
    num_bytes: int
    """On the disk now."""


def store_dir() -> Path:
    """`R1_SERVE_MODELS`, else `r1-serve/models` in the user's cache."""
    if given := os.environ.get(STORE_ENV):
        return Path(os.path.expanduser(given)).absolute()
    if not (cache := os.environ.get("XDG_CACHE_HOME")):
        home = os.path.expanduser("~")
        # A container's user without a name has none; there "/" is usual.
        cache = os.path.join(home if os.path.isabs(home) else "/", ".cache")
    return Path(cache) / "r1-serve" / "models"


def is_repo(name: str) -> bool:
    """Whether `name` is written as `owner/name`."""
    return _REPO.fullmatch(name) is not None and "--" not in name and ".." not in name


def model_dir(store: Path, repo: str) -> Path:
    return store / repo.replace("/", "--")


def is_plain(name: str) -> bool:
    """Whether a file of this name lies in the model's directory itself and is no file of ours. What
    a hub or a manifest names otherwise is neither written nor removed."""
    return bool(name) and not (name.startswith(".") or name == MANIFEST or set(name) & set("/\\\0"))


def read_manifest(directory: Path) -> Manifest | None:
    """None where there is none. Raises `ModelError` where it can't be read."""
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path} can't be read: {exc}") from exc
    if odd := next((name for name in manifest.files if not is_plain(name)), None):
        raise ModelError(f"{path} names {odd!r}, which no file of a model is called")
    return manifest


def complete_manifest(directory: Path) -> Manifest | None:
    """The manifest, if it can be read and every file is there in its size. No bytes are read."""
    try:
        manifest = read_manifest(directory)
        whole = manifest is not None and all(
            (directory / name).stat().st_size == file.size for name, file in manifest.files.items()
        )
    except (ModelError, OSError):
        return None
    return manifest if whole else None


def complete_model(store: Path, repo: str) -> Path | None:
    """The directory of `repo` in the store, where it is complete."""
    if not is_repo(repo):
        return None
    directory = model_dir(store, repo)
    manifest = complete_manifest(directory)
    return directory if manifest is not None and manifest.repo == repo else None


def stored_models(store: Path) -> list[StoredModel]:
    """All directories in the store that a pull has made or begun."""
    found = []
    for directory in sorted(store.iterdir()) if store.is_dir() else ():
        if (directory / MANIFEST).is_file() or (directory / WORK).is_dir():
            found.append(_stored(directory))
    return found


def _stored(directory: Path) -> StoredModel:
    try:
        manifest = read_manifest(directory)
    except ModelError:
        manifest = None
    files = (*directory.iterdir(), *directory.glob(f"{WORK}/*"))
    return StoredModel(
        repo=manifest.repo if manifest else directory.name.replace("--", "/", 1),
        path=directory,
        manifest=manifest,
        complete=complete_manifest(directory) is not None,
        num_bytes=sum(file.stat().st_size for file in files if file.is_file()),
    )
