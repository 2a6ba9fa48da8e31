"""One file from a hub onto the disk: resumed where it ended, tried again, checked at the end."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from serve.models.check import Advance, blocks
from serve.models.http import HubClient, Lost, words_of
from serve.models.hubs import RemoteFile
from serve.models.store import ModelError

R = TypeVar("R")
CHUNK_BYTES = 1 << 20
MAX_WAIT_S = 300.0
"""Longest wait that a hub may ask for."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class Watcher(Protocol):
    """Hears how a pull goes. `advance` may take back what has to be fetched anew."""

    def tell(self, text: str) -> None: ...
    def begin(self, doing: str, num_bytes: int, num_done: int = 0) -> None: ...
    def advance(self, num_bytes: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How often in a row a request may fail without having brought a byte more, and the wait before
    the next one: from `base_s`, doubling, to `max_s`, or as long as the hub asks."""

    num_tries: int = 6
    base_s: float = 1.0
    max_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait_s(self, num_failed: int, asked_s: float | None) -> float:
        backoff_s = min(self.max_s, self.base_s * 2.0 ** (num_failed - 1))
        return max(backoff_s * random.uniform(0.5, 1), min(asked_s or 0.0, MAX_WAIT_S))


class Fetcher:
    """What an exception leaves in a part, the next fetch goes on from."""

    def __init__(self, client: HubClient, watcher: Watcher, patience: Patience) -> None:
        self.client = client
        self._watcher = watcher
        self._patience = patience

    def fetch(self, file: RemoteFile, part: Path) -> str:
        """The SHA-256 of the file, once the whole of it is in `part` and right. Raises `ModelError`
        and `OSError`."""
        part.touch()
        for _ in range(2):  # of a part that was resumed, the beginning may be at fault
            if size_of(part) > file.size:
                os.truncate(part, 0)
            self.patiently(lambda: self._receive(file, part), lambda: size_of(part))
            if sha256 := sha256_if_right(part, file):
                return sha256
            self._watcher.tell(f"{file.name} came with wrong bytes; fetching it anew.")
            os.truncate(part, 0)
            self._watcher.advance(-file.size)
        part.unlink()
        raise ModelError(
            f"{self.client.endpoint} sends other bytes for {file.name} than its checksum says: it "
            "is changing now, or is a broken mirror; try again later, or another --endpoint"
        )

    def patiently(self, do: Callable[[], R], progress: Callable[[], int] = lambda: 0) -> R:
        """Tries until it works, or has failed too often in a row without `progress`."""
        num_failed, best = 0, progress()
        while True:
            try:
                return do()
            except Lost as exc:
                num_failed = 1 if progress() > best else num_failed + 1
                best = max(best, progress())
                if num_failed == self._patience.num_tries:
                    raise ModelError(
                        f"{self.client.endpoint} can't be reached, or answers badly: {exc}. The "
                        "same command goes on later; other sources are in docs/models.md"
                    ) from exc
                wait_s = self._patience.wait_s(num_failed, exc.after_s)
                self._watcher.tell(f"{exc}; trying again in {wait_s:.1f} s.")
                self._patience.sleep(wait_s)

    def _receive(self, file: RemoteFile, part: Path) -> None:
        """Appends to `part` what is missing. Raises `Lost` where that isn't all."""
        offset = size_of(part)
        if offset == file.size:
            return
        with self.client.open(file.url, offset) as answer, part.open("r+b", buffering=0) as out:
            if offset and not _goes_on_at(answer, offset):
                self._watcher.advance(-offset)
                offset = 0
                out.truncate(0)
            _check_length(answer, file.size - offset)
            while offset < file.size:
                chunk = _read(answer, min(CHUNK_BYTES, file.size - offset))
                out.seek(offset)
                num_written = out.write(chunk)
                while num_written < len(chunk):  # the disk is nearly full
                    num_written += out.write(chunk[num_written:])
                offset += len(chunk)
                self._watcher.advance(len(chunk))


def size_of(path: Path) -> int:
    """0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sha256_if_right(
    path: Path, file: RemoteFile, advance: Advance = lambda num_bytes: None
) -> str | None:
    """None where size or bytes aren't what the hub says. Raises `OSError`."""
    if size_of(path) != file.size:
        return None
    wants_git = file.digest is not None and file.digest.algorithm == "git"
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    for block in blocks(path):
        sha256.update(block)
        if wants_git:
            git.update(block)
        advance(len(block))
    found = git if wants_git else sha256
    is_right = file.digest is None or found.hexdigest() == file.digest.value
    return sha256.hexdigest() if is_right else None


def _goes_on_at(answer: http.client.HTTPResponse, offset: int) -> bool:
    """Whether the body begins at `offset`; else it is the whole. Raises `Lost`."""
    if answer.status != 206:
        return False
    place = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if place is None or int(place[1]) != offset:
        raise Lost("the hub sent another part than was asked for")
    return True


def _check_length(answer: http.client.HTTPResponse, num_bytes: int) -> None:
    """Raises `Lost` where this can't be the file: a proxy's page, say."""
    if answer.length is not None and answer.length != num_bytes:
        raise Lost(f"the hub offers {answer.length:,} bytes in place of {num_bytes:,}")


def _read(answer: http.client.HTTPResponse, num_bytes: int) -> bytes:
    """What has come, at least a byte. Raises `Lost`."""
    try:
        chunk = answer.read1(num_bytes)
    except (OSError, http.client.HTTPException) as exc:
        raise Lost(words_of(exc)) from exc
    if not chunk:
        raise Lost("the connection was cut")
    return chunk
