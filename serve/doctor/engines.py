"""What the engines of a router answer, asked once each and all at the same time."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from serve.describe import expect_ok
from serve.discovery import DnsSource, Source
from serve.errors import ServeError
from serve.upstream import EngineClient
from serve.wire import UNREADABLE

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    url: str
    error: str | None = None
    """Why it can't serve; nothing else is known then."""
    models: Mapping[str, int | None] = field(default_factory=dict)
    """Served name → `max_model_len`."""
    version: str | None = None


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


class _Version(msgspec.Struct):
    version: str | None = None


async def find_engines(source: Source) -> list[EngineFacts] | str:
    """What each answers; a sentence where none is known. Raises `SettingsError`."""
    if isinstance(source, DnsSource):
        try:
            async with asyncio.timeout(TIMEOUT_S):
                urls = await source.urls()
        except (OSError, TimeoutError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc) or "no answer in time"
            return f"The engines' name can't be resolved ({reason})"
    else:
        urls = source.initial()
    return list(await asyncio.gather(*map(_ask, urls)))


async def _ask(url: str) -> EngineFacts:
    client = EngineClient(url, connect_timeout_s=TIMEOUT_S, idle_timeout_s=TIMEOUT_S)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await expect_ok(client, "/health")
            cards = msgspec.json.decode(await expect_ok(client, "/v1/models"), type=_Models).data
            status, body = await client.get_json("/version")
        version = msgspec.json.decode(body, type=_Version).version if status == 200 else None
        return EngineFacts(url, None, {it.id: it.max_model_len for it in cards}, version)
    except TimeoutError:
        return EngineFacts(url, f"no answer within {TIMEOUT_S:.0f} s")
    except UNREADABLE:
        return EngineFacts(url, "it doesn't answer as an OpenAI-compatible server")
    except ServeError as exc:
        return EngineFacts(url, str(exc))
    finally:
        client.close()


async def ray_error(address: str | None) -> str | None:
    """Why Ray can't be used at this address, or None. `auto` is found as Ray finds it:
    `RAY_ADDRESS`, else the file that `ray start` leaves in the temporary directory."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed"
    if address is None:
        return None  # `up` starts a cluster of its own
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _started_here()
    if address is None or address == "auto":
        return "no cluster runs on this machine"
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    except (OSError, TimeoutError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or "no answer in time"
        return f"nothing answers at {address} ({reason})"
    return None


def _started_here() -> str | None:
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return Path(base, "ray", "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None
