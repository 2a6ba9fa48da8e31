"""The model of a set-up as its files tell: where it is, what is wrong with them, its sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.planner.model_shape import (
    R1_DISTILL_QWEN_1_5B,
    ModelShape,
    ShapeError,
    read_shape,
)
from serve.engine import is_local, stored_model
from serve.engine_faults import Fault
from serve.models.check import check_model
from serve.models.store import ModelError, store_dir
from serve.settings import EngineSettings

_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_MAX_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ModelFacts:
    name: str
    """As the settings have it."""
    directory: Path | None
    """None: not on this machine, or of a repository not all of it."""
    is_repository: bool = False
    may_download: bool = True
    """False where the environment forbids it (`HF_HUB_OFFLINE`)."""
    missing: tuple[str, ...] = ()
    """Files of a repository that was fetched in part."""
    faults: tuple[Fault, ...] = ()
    shape: ModelShape | None = None
    """None where it can't be known, or isn't a dense decoder's."""
    context: int | None = None
    """Positions that the model was made for; None where something scales them."""


def find_model(engine: EngineSettings, env: Mapping[str, str]) -> ModelFacts:
    """`env` is the environment that the engine will have."""
    name = engine.model
    is_repository = not is_local(name)
    directory = _find_repository(engine, env) if is_repository else Path(name)
    offline = env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    known = R1_DISTILL_QWEN_1_5B if name.endswith(R1_DISTILL_QWEN_1_5B.name) else None
    absent = ModelFacts(name, None, is_repository, not offline, shape=known)
    if directory is None or not os.path.isdir(directory):
        return absent
    needs_weights = engine.load_format != "dummy"
    faults = dict(_faults(directory, needs_weights, name if is_repository else None))
    missing = tuple(file for file in faults if not os.path.exists(directory / file))
    if is_repository and missing and len(missing) == len(faults):
        return replace(absent, missing=missing)
    try:
        shape = read_shape(directory)
    except (ShapeError, ZeroDivisionError):
        shape = None
    return replace(
        absent,
        directory=directory,
        faults=tuple(faults.values()),
        shape=shape,
        context=_context(directory),
    )


def cache_home(env: Mapping[str, str]) -> Path:
    """Of vLLM and huggingface_hub: for a user without a home `~` in the working directory."""
    return Path(env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def hub_cache(env: Mapping[str, str]) -> Path:
    """As huggingface_hub finds it (constants.py)."""
    home = Path(env.get("HF_HOME") or cache_home(env) / "huggingface")
    return Path(env.get("HF_HUB_CACHE") or home / "hub")


def _find_repository(engine: EngineSettings, env: Mapping[str, str]) -> Path | None:
    """In our own store, else in the Hugging Face cache (its layout: huggingface_hub's "Understand
    caching")."""
    if (stored := stored_model(engine, store_dir())) is not None:
        return stored
    repository = hub_cache(env) / f"models--{engine.model.replace('/', '--')}"
    try:
        return repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None


def _faults(
    directory: Path, needs_weights: bool, repository: str | None
) -> Iterator[tuple[str, Fault]]:
    """By file; by "" what is wrong with the directory."""
    try:
        pointers = {path.name for path in directory.iterdir() if _is_pointer(path)}
    except OSError as exc:
        told = f"It can't be read ({exc.strerror})."
        yield "", Fault(told, "Give this user the right to read it.")
        return
    for name in sorted(pointers):
        yield (
            name,
            Fault(
                f"{name} is a git-LFS pointer, not the file itself.",
                f"Fetch the files: `git -C {directory} lfs pull`.",
            ),
        )
    try:
        checked = check_model(directory, hashes=False)
    except ModelError as exc:
        yield "", Fault(f"{exc}.", _fetch(repository, "OWNER/NAME", directory))
        return
    repo = checked.manifest.repo if checked.manifest else "OWNER/NAME"
    remedy = _fetch(repository, repo, directory)
    weights = (".safetensors", ".bin", ".pt", ".index.json")
    for found in checked.damage:
        if found.name not in pointers and (needs_weights or not found.name.endswith(weights)):
            yield found.name, Fault(f"{found}.", remedy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = directory / name
        if name not in pointers and path.is_file() and _json(path) is None:
            yield name, Fault(f"{name} is no JSON.", remedy)


def _fetch(repository: str | None, repo: str, directory: Path) -> str:
    """A `repository` of the settings is looked for in our store first, wherever this one is."""
    what = repository or f"{repo} --to {directory}"
    return f"Fetch it again: `r1-serve model pull {what} --repair`."


def _is_pointer(path: Path) -> bool:
    """Raises `OSError` where it can't be read; a link to nothing is no pointer."""
    if not path.is_file() or path.stat().st_size > _LFS_MAX_BYTES:
        return False
    return path.read_bytes().startswith(_LFS)


def _context(directory: Path) -> int | None:
    config = _json(directory / "config.json")
    if not isinstance(config, dict):
        return None
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if isinstance(scaling, dict) and "factor" in scaling:
            return None
    context = config.get("max_position_embeddings")
    return context if isinstance(context, int) else None


def _json(path: Path) -> object:
    """None where it can't be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
