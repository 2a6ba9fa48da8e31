"""API keys: their file, what is checked of a request, reading the file again when it changes.

The file is TOML with a table per key, `[keys.NAME]`. It never holds a key, only its SHA-256: a fast
hash is right here, since a key's secret is 256 random bits that nobody can guess at, however fast;
slow hashes are for passwords, which people choose. `r1-serve key` edits it (`serve.key_commands`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve.admission import BATCH_PRIORITY
from serve.errors import InvalidKey
from serve.limits import Account, Limits
from serve.settings import ServerSettings, SettingsError, file_stamp, read_toml
from serve.shared import Shared
from serve.strict import StrictError, convert

log = logging.getLogger(__name__)

POLL_S = 1.0
"""How often the file is looked at, and at most how much longer a revoked key works."""
NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
_SCHEME = "r1"
_NO_HASH = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
_Headers = Iterable[tuple[bytes, bytes]]


class Key(Limits, frozen=True, kw_only=True):
    """One `[keys.NAME]` table."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}$")]
    """The key's second part, by which it is found."""
    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the whole key, in hexadecimal digits."""
    created: str
    priority_class: Literal["interactive", "batch"] = "interactive"

    @property
    def best_priority(self) -> int:
        return BATCH_PRIORITY if self.priority_class == "batch" else 0


class KeyFile(msgspec.Struct, frozen=True):
    keys: dict[Annotated[str, Meta(pattern=NAME_PATTERN)], Key] = {}


def new_key() -> tuple[str, str, str]:
    """(key, id, hash) of a new key, `r1-<id>-<secret>`; the secret has 256 bits."""
    key_id = secrets.token_hex(6)
    key = f"{_SCHEME}-{key_id}-{secrets.token_urlsafe(32)}"
    return key, key_id, hash_of(key)


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[str, Key]:
    """Name → key. Raises `SettingsError`."""
    return check_keys_data(read_toml(path), path)


def check_keys_data(data: dict[str, object], path: Path) -> dict[str, Key]:
    try:
        keys = convert(data, KeyFile).keys
    except StrictError as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    ids = [key.id for key in keys.values()]
    if len(set(ids)) < len(ids):
        raise SettingsError(f"{path}: two keys have one `id`; make one of them anew")
    return keys


class Holder:
    """A key in use: what the file says of it, and its account."""

    __slots__ = ("account", "key")

    def __init__(self, key: Key, account: Account) -> None:
        self.key = key
        self.account = account


class KeyRing:
    """The keys of `path` as they are now. Raises `SettingsError` where they can't be read."""

    def __init__(
        self, path: Path, shared: Shared, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._shared = shared
        self._clock = clock
        self._holders: dict[str, Holder] = {}
        self._seen = file_stamp(path)
        self.reloaded = True
        """Whether the last reading went well."""
        self._take(read_keys(path))

    def holder_of(self, headers: _Headers) -> Holder:
        """Who sent a request with these headers (ASGI's: names in lower case).

        Raises `InvalidKey`. An unknown id costs what a wrong secret costs.
        """
        sent = _sent_key(headers)
        holder = self._holders.get(sent.partition("-")[2].partition("-")[0])
        expected = _NO_HASH if holder is None else holder.key.hash
        if not hmac.compare_digest(hash_of(sent), expected) or holder is None:
            raise InvalidKey(
                "the API key isn't known here; send a valid one as `Authorization: Bearer KEY`"
                if sent
                else "an API key is needed; send it as `Authorization: Bearer KEY`"
            )
        return holder

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Polls every `POLL_S` until left."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(POLL_S)
                self.poll()

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()

    def poll(self) -> None:
        """Reads the file if it is another; keeps buckets up to date with the other workers.

        A mounted Kubernetes secret changes by a symbolic link that is swapped: the inode tells.
        """
        if file_stamp(self._path) != self._seen:
            self.reload()
        now_s = self._clock()
        for holder in self._holders.values():
            holder.account.look(now_s)

    def reload(self) -> None:
        """Reads the file now; a broken one is reported and the old keys stay."""
        self._seen = file_stamp(self._path)
        self.reloaded = False
        try:
            keys = read_keys(self._path)
        except SettingsError as exc:
            log.error("keys not reloaded, the old ones stay: %s", exc)
        else:
            self.reloaded = True
            self._take(keys)
            log.info("keys reloaded: %s", ", ".join(keys) or "none")

    def _take(self, keys: dict[str, Key]) -> None:
        self._holders = {key.id: self._holder(name, key) for name, key in keys.items()}

    def _holder(self, name: str, key: Key) -> Holder:
        now_s = self._clock()
        known = self._holders.get(key.id)
        if known is not None and known.account.name == name:
            known.account.limit(key, now_s)
            return Holder(key, known.account)
        counters = self._shared.counters(f"key-{key.id}")
        return Holder(key, Account(name, key, counters, now_s))


def check_exposure(server: ServerSettings) -> None:
    """Raises `SettingsError` where the router would be open to others without keys."""
    if server.keys_file is None and not server.allow_anonymous and not is_loopback(server.host):
        raise SettingsError(
            f"server.host = `{server.host}` can be reached from outside, and no key is asked for. "
            "Make a key with `r1-serve key create NAME --file keys.toml` and set "
            '`server.keys_file = "keys.toml"`; or set `server.allow_anonymous = true` where '
            "something in front authenticates"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sent_key(headers: _Headers) -> str:
    """The key in a request's headers, `""` if there is none. What isn't ASCII is no key of ours."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip().decode("latin-1")
        elif name == b"x-api-key":
            return value.strip().decode("latin-1")
    return ""
