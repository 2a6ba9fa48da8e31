"""Brings a model from a hub into a directory; killed at any byte, the next pull goes on there.

Files grow in `.r1-pull` beside the model, under names that hold their checksum, so that what was
fetched of another revision is never taken for this one's. A file without one (some mirrors give
none) begins anew with each pull. Once all are there and right they are
renamed into place, and the manifest comes last. Two pulls of one directory take turns. Where a file
system's locks don't hold, they write the same bytes at the same places.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.filesize import decimal

from serve.models.fetch import Fetcher, Patience, Watcher, sha256_if_right, size_of
from serve.models.http import HubClient
from serve.models.hubs import Hub, RemoteFile, serving_files
from serve.models.lock import LOCK, locked
from serve.models.store import (
    MANIFEST,
    STORE_ENV,
    Manifest,
    ModelError,
    ModelFile,
    complete_manifest,
    read_manifest,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """`revision` None: what is there, else the hub's main branch. `repair`: don't go by the sizes
    of what is there."""

    repo: str
    directory: Path
    hub: Hub
    endpoint: str
    revision: str | None = None
    repair: bool = False

    def found(self) -> Manifest | None:
        """What needs no pull. Raises `ModelError` where the directory is another model's."""
        there = _manifest_or_none(self.directory)
        if there is not None and there.repo != self.repo:
            raise ModelError(f"{self.directory} holds {there.repo}; choose another --to")
        if self.repair or there is None or complete_manifest(self.directory) is None:
            return None
        return there if self.revision in (None, there.revision, there.commit) else None


def pull(wanted: Wanted, watcher: Watcher, patience: Patience | None = None) -> Manifest:
    """A model that is complete is returned at once, and the hub isn't asked. What ends this early,
    Ctrl-C too, leaves what was fetched for the next pull. Raises `ModelError` and `OSError`."""
    if there := wanted.found():
        return there
    client = HubClient(wanted.hub, wanted.endpoint, wanted.repo)
    work = _Pull(wanted, Fetcher(client, watcher, patience or Patience()), watcher)
    # Before the directory is made: where the hub has no such model, nothing is left.
    files, commit = work.list_files()
    with locked(wanted.directory, watcher.tell) as folder:
        return wanted.found() or work.bring(files, commit, folder)


class _Pull:
    def __init__(self, wanted: Wanted, fetcher: Fetcher, watcher: Watcher) -> None:
        self._wanted = wanted
        self._fetcher = fetcher
        self._watcher = watcher
        self._revision = wanted.revision or wanted.hub.revision

    def list_files(self) -> tuple[tuple[RemoteFile, ...], str | None]:
        """The files for serving, and the commit they are of."""
        wanted, asked = self._wanted, self._revision
        there = _manifest_or_none(wanted.directory) if wanted.revision is None else None
        if there is not None and there.hub == wanted.hub.name:
            # To mend what is there isn't to go on to what the branch has now.
            self._revision, asked = there.revision, there.commit or there.revision
        listing = self._fetcher.patiently(
            lambda: wanted.hub.list_files(
                self._fetcher.client.get, wanted.endpoint, wanted.repo, asked
            )
        )
        return serving_files(listing, wanted.repo), listing.commit

    def bring(self, files: tuple[RemoteFile, ...], commit: str | None, folder: Path) -> Manifest:
        known = self._right_ones(files, commit, folder)
        missing = [file for file in files if file.name not in known]
        parts = {file.name: folder / _part_name(file) for file in missing}
        self._refuse_to_overwrite(parts)
        for file in missing:
            if file.digest is None:
                parts[file.name].unlink(missing_ok=True)
        num_bytes = sum(file.size for file in missing)
        num_done = sum(min(size_of(parts[file.name]), file.size) for file in missing)
        self._check_room(num_bytes - num_done)
        if missing:
            self._watcher.begin(f"Fetching {self._wanted.repo}", num_bytes, num_done)
        for file in missing:
            sha256 = self._fetcher.fetch(file, parts[file.name])
            known[file.name] = ModelFile(file.size, sha256)
        manifest = Manifest(
            repo=self._wanted.repo,
            hub=self._wanted.hub.name,
            endpoint=self._wanted.endpoint,
            revision=self._revision,
            commit=commit,
            files=dict(sorted(known.items())),
        )
        self._publish(manifest, parts, folder)
        if unchecked := [file.name for file in files if file.digest is None]:
            self._watcher.tell(
                f"{self._wanted.endpoint} gives no checksums of {', '.join(unchecked)}: of these "
                "only the sizes were checked."
            )
        return manifest

    def _right_ones(
        self, files: tuple[RemoteFile, ...], commit: str | None, folder: Path
    ) -> dict[str, ModelFile]:
        """The files that are in place already: every one is read, whoever put it there. One without
        a checksum is held against the manifest of the same commit; with no manifest it counts, but
        where a pull that was under way may have put another's there."""
        before = _manifest_or_none(self._wanted.directory)
        same = before and commit and (before.revision, before.commit) == (self._revision, commit)
        is_new = before is None and all(it.name == LOCK for it in folder.iterdir())
        pulled = before.files if before and same else {}
        places = {file: self._wanted.directory / file.name for file in files}
        there = [file for file in files if places[file].is_file()]
        there = [file for file in there if size_of(places[file]) == file.size]
        if there:
            self._watcher.begin("Checking what is there", sum(file.size for file in there))
        found = {}
        for file in there:
            if sha256 := sha256_if_right(places[file], file, self._watcher.advance):
                it = ModelFile(file.size, sha256)
                if file.digest or is_new or it == pulled.get(file.name):
                    found[file.name] = it
        return found

    def _refuse_to_overwrite(self, parts: Mapping[str, Path]) -> None:
        """What no pull has put there is someone's own."""
        directory = self._wanted.directory
        if (directory / MANIFEST).exists() or any(part.exists() for part in parts.values()):
            return
        foreign = next((name for name in parts if (directory / name).exists()), None)
        if foreign is not None:
            raise ModelError(
                f"{directory} has another {foreign} than {self._wanted.repo}, from elsewhere; "
                "move it away, or choose another --to"
            )

    def _check_room(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._wanted.directory).free
        if num_bytes > free:
            raise ModelError(
                f"{self._wanted.directory} has room for {decimal(free)}, but {decimal(num_bytes)} "
                f"are to come; make room, or choose another place (--to, or {STORE_ENV})"
            )

    def _publish(self, manifest: Manifest, parts: Mapping[str, Path], folder: Path) -> None:
        """In an order that tells, wherever it is cut off, what is left to do."""
        directory = self._wanted.directory
        for part in parts.values():
            _sync(part)
        before = _manifest_or_none(directory)
        for name in (before.files.keys() if before else set()) - manifest.files.keys():
            (directory / name).unlink(missing_ok=True)
        (directory / MANIFEST).unlink(missing_ok=True)
        for name, part in parts.items():
            os.replace(part, directory / name)
        for left in folder.iterdir():
            if left.name != LOCK:
                left.unlink()
        draft = folder / MANIFEST
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        _sync(draft)
        _sync(directory)
        os.replace(draft, directory / MANIFEST)
        _sync(directory)


def _manifest_or_none(directory: Path) -> Manifest | None:
    with contextlib.suppress(ModelError):
        return read_manifest(directory)
    return None


def _part_name(file: RemoteFile) -> str:
    return f"{file.name}.{file.digest.value[:16] if file.digest else file.size}"


def _sync(path: Path) -> None:
    """To the disk: a manifest must not outlive the files that it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
