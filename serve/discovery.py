"""Where the engines' URLs come from: a fixed list, the addresses of a DNS name, or a watched file.

A source calls back with the whole set each time it changes. A source that fails keeps the set it
had: engines that are really gone are found out by probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from serve.settings import RouterSettings, SettingsError, file_stamp

log = logging.getLogger(__name__)

RESOLVE_INTERVAL_S = 5.0
HOLD_S = 300.0
"""How long the last addresses are kept while the name can't be resolved."""
FILE_INTERVAL_S = 0.25

Update = Callable[[Sequence[str]], None]
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""Name and port → addresses. Raises `OSError`."""


class Source(Protocol):
    def initial(self) -> list[str]:
        """What is known at once. Raises `SettingsError`."""

    async def watch(self, update: Update) -> None:
        """Calls `update` with every new set until cancelled."""


class StaticSource:
    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [engine_url(url) for url in urls]

    def initial(self) -> list[str]:
        return list(dict.fromkeys(self._urls))

    async def watch(self, update: Update) -> None:
        return


class FileSource:
    """One URL per line, `#` begins a comment. A file that can't be used is reported, and the old
    set stays; one without any URL is taken for a file that is just being written."""

    def __init__(self, path: Path, interval_s: float = FILE_INTERVAL_S) -> None:
        self._path = path
        self._interval_s = interval_s

    def initial(self) -> list[str]:
        return self._read()

    async def watch(self, update: Update) -> None:
        seen, complaint = None, ""
        while True:
            stamp = file_stamp(self._path)
            if stamp != seen:
                seen = stamp
                try:
                    update(self._read())
                    complaint = ""
                except SettingsError as exc:
                    if str(exc) != complaint:
                        log.error("the engines stay as they were: %s", exc)
                    complaint = str(exc)
            await asyncio.sleep(self._interval_s)

    def _read(self) -> list[str]:
        try:
            lines = self._path.read_text().splitlines()
        except OSError as exc:
            raise SettingsError(f"{self._path}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SettingsError(f"{self._path}: not a text file") from exc
        urls: dict[str, None] = {}
        for number, line in enumerate(lines, 1):
            if text := line.partition("#")[0].strip():
                try:
                    urls[engine_url(text)] = None
                except SettingsError as exc:
                    raise SettingsError(f"{self._path}, line {number}: {exc}") from exc
        if not urls:
            raise SettingsError(f"{self._path} names no engine; write one URL per line")
        return list(urls)


class DnsSource:
    """All A and AAAA records of a name, as of a headless Service."""

    def __init__(
        self,
        url: str,
        *,
        interval_s: float = RESOLVE_INTERVAL_S,
        hold_s: float = HOLD_S,
        resolve: Resolve | None = None,
    ) -> None:
        parts = _split(url)
        if parts.scheme != "http":
            raise SettingsError(f"`{url}`: addresses have no certificates; use http://name:port")
        self._name = parts.hostname or ""
        self._port = parts.port or 80
        self._path = parts.path.rstrip("/")
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._resolve = resolve or addresses

    def initial(self) -> list[str]:
        return []

    async def watch(self, update: Update) -> None:
        resolved_at_s, failing = time.monotonic(), False
        while True:
            try:
                found = await self.urls()
            except OSError as exc:
                if not failing:
                    log.warning("%s can't be resolved: %s; engines stay", self._name, exc)
                failing = True
                if time.monotonic() - resolved_at_s > self._hold_s:
                    update([])
            else:
                resolved_at_s, failing = time.monotonic(), False
                update(found)
            await asyncio.sleep(self._interval_s)

    async def urls(self) -> list[str]:
        """As of now. Raises `OSError`."""
        found = sorted(set(await self._resolve(self._name, self._port)))
        if not found:
            raise OSError("it has no addresses")
        hosts = (f"[{address}]" if ":" in address else address for address in found)
        return [f"http://{host}:{self._port}{self._path}" for host in hosts]


async def addresses(name: str, port: int) -> set[str]:
    """Every IPv4 and IPv6 address of `name`. Raises `OSError`.

    In a thread that nobody waits for: silent name servers hold it for 20 s and more
    (resolv.conf(5)), and with it the end of a program that waits for its event loop's own threads.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[set[str]] = loop.create_future()

    def tell(found: set[str] | OSError) -> None:
        if answer.done():  # nobody asks any more
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look_up() -> None:
        found = _addresses(name, port)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    return await answer


def _addresses(name: str, port: int) -> set[str] | OSError:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # a label that IDNA can't encode
        return OSError(str(exc))
    except OSError as exc:
        return exc
    return {str(address[0]) for *_, address in found}


def make_source(settings: RouterSettings) -> Source:
    """The one source that the settings name. Raises `SettingsError` where it isn't exactly one."""
    given = {
        "engine_urls": settings.engine_urls,
        "engine_dns": settings.engine_dns,
        "engine_file": settings.engine_file,
    }
    named = [name for name, value in given.items() if value]
    if not named:
        raise SettingsError(
            "no engine: give --engine-url, --engine-dns or --engine-file, or one of "
            "`router.engine_urls`, `router.engine_dns`, `router.engine_file`"
        )
    if len(named) > 1:
        several = " and ".join(f"`router.{name}`" for name in named)
        raise SettingsError(f"{several} both say where the engines are; keep one")
    if settings.engine_dns:
        return DnsSource(settings.engine_dns)
    if settings.engine_file:
        return FileSource(Path(settings.engine_file))
    return StaticSource(settings.engine_urls)


def engine_url(text: str) -> str:
    """`text` as a server's URL, without a slash at its end. Raises `SettingsError`."""
    _split(text)
    return text.rstrip("/")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, an unclosed bracket
        usable = False
    if not usable or any(character.isspace() for character in text):
        raise SettingsError(f"`{text}` is not the URL of a server; write it as http://host:port")
    return parts
