"""Whether the files of a model are there and unbroken.

With a manifest (`serve.models.store`) every byte is held against it. Without one, for directories
from elsewhere, what the files say of themselves is: config.json is JSON, there is a tokenizer, the
shards that an index names are there, and each safetensors file is as long as its header says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.models.store import Manifest, ModelFile, read_manifest

BLOCK_BYTES = 1 << 20
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (safetensors, `MAX_HEADER_SIZE`)."""
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """`problem` goes on from the name: "is missing"."""

    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """`manifest` is None where there is none; `damage` is then what can be seen without."""

    manifest: Manifest | None
    damage: tuple[Damage, ...]


def check_model(
    directory: Path, advance: Advance = lambda num_bytes: None, *, hashes: bool = True
) -> ModelCheck:
    """Reads every byte that the manifest names and tells `advance` how many; with `hashes` false
    only sizes and headers. Raises `ModelError` where the manifest itself can't be read."""
    manifest = read_manifest(directory)
    if manifest is None:
        return ModelCheck(None, tuple(_by_themselves(directory)))
    found = [
        Damage(name, problem)
        for name, file in sorted(manifest.files.items())
        if (problem := _against(directory / name, file, advance, hashes))
    ]
    if not found and not hashes:
        found += _by_themselves(directory)
    return ModelCheck(manifest, tuple(found))


def sha256_of(path: Path, advance: Advance) -> str:
    """Raises `OSError`."""
    digest = hashlib.sha256()
    for block in blocks(path):
        digest.update(block)
        advance(len(block))
    return digest.hexdigest()


def blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _against(path: Path, file: ModelFile, advance: Advance, hashes: bool) -> str | None:
    """What is wrong with the file, in words, or None."""
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"has {size:,} bytes in place of {file.size:,}"
        if hashes and sha256_of(path, advance) != file.sha256:
            return "is broken: its bytes aren't those that were pulled (SHA-256)"
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"can't be read: {exc.strerror}"
    return None


def _by_themselves(directory: Path) -> Iterator[Damage]:
    if problem := _json_problem(directory / "config.json"):
        yield Damage("config.json", problem)
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        yield Damage("tokenizer.json", "is missing, and there is no other tokenizer")
    weights = {path.name for path in directory.glob("*.safetensors")}
    if (directory / INDEX).is_file():
        try:
            index = json.loads((directory / INDEX).read_bytes())
            weights |= set(index["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield Damage(INDEX, "is no index of weights")
    if not weights and not any(any(directory.glob(pattern)) for pattern in _OTHER_WEIGHTS):
        yield Damage("model.safetensors", "is missing, and there are no other weights")
    for name in sorted(weights):
        if problem := safetensors_problem(directory / name):
            yield Damage(name, problem)


def _json_problem(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"can't be read: {exc.strerror}"
    except ValueError as exc:
        return f"is no JSON: {exc}"
    return None


def safetensors_problem(path: Path) -> str | None:
    """What is wrong with the header, or with the file's length by it; None where nothing is. The
    header is 8 bytes with its length, little endian, and JSON with each tensor's place in the
    rest (https://github.com/huggingface/safetensors, "Format")."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                return "is no safetensors file, or was cut in its header"
            header = json.loads(file.read(length))
        ends = [it["data_offsets"][1] for name, it in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"can't be read: {exc.strerror}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "is no safetensors file: its header can't be read"
    return None if size == whole else f"has {size:,} bytes in place of {whole:,}"
