"""How `r1-serve scale` and `status` reach the `r1-serve up` that runs: by a socket of its own, in a
directory that only its user can enter. One line of JSON asks, one line answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from serve.engine_faults import EngineStartError
from serve.engine_process import read_load
from serve.fleet import Fleet, Keeper
from serve.settings import SettingsError
from serve.supervise import end


class Scale(msgspec.Struct, frozen=True, tag="scale"):
    num_replicas: int


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Asks for a `FleetStatus`."""


Question = Scale | Look


class EngineStatus(msgspec.Struct, frozen=True):
    index: int
    url: str
    place: str
    state: str
    """`ready`, or what it is doing."""
    num_running: int | None = None
    """None, as what follows, where the engine doesn't tell."""
    num_waiting: int | None = None
    kv_cache_usage: float | None = None


class FleetStatus(msgspec.Struct, frozen=True):
    engines: list[EngineStatus] = []
    error: str | None = None
    """Why what was asked for was not done."""


@contextlib.asynccontextmanager
async def controlled(fleet: Fleet, path: Path) -> AsyncIterator[None]:
    """While inside, questions about the fleet are answered at the socket `path`."""
    answering: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_converse(fleet, reader, writer))
        answering.add(task)
        task.add_done_callback(answering.discard)

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield
    finally:
        server.close()
        for task in [*answering]:
            await end(task)


async def _converse(
    fleet: Fleet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Who asks in no known words gets no answer."""
    unheard = (ConnectionError, msgspec.DecodeError)
    with contextlib.closing(writer), contextlib.suppress(*unheard):
        question = msgspec.json.decode(await reader.readline(), type=Question)
        writer.write(msgspec.json.encode(await _answer(fleet, question)) + b"\n")
        await writer.drain()


async def _answer(fleet: Fleet, question: Question) -> FleetStatus:
    error = None
    if isinstance(question, Scale):
        try:
            await fleet.scale(question.num_replicas)
            await fleet.until_left()
        except (EngineStartError, SettingsError) as exc:
            error = str(exc)
    engines = await asyncio.gather(*(_status_of(keeper) for keeper in fleet.keepers))
    return FleetStatus(sorted(engines, key=lambda it: it.index), error)


async def _status_of(keeper: Keeper) -> EngineStatus:
    index, url, place = keeper.index, keeper.url, keeper.place
    if not keeper.ready:
        return EngineStatus(index, url, place, keeper.phase)
    load = await read_load(url)
    if load is None:
        return EngineStatus(index, url, place, "ready")
    loads = load.num_running, load.num_waiting, load.kv_cache_usage
    return EngineStatus(index, url, place, "ready", *loads)


async def ask(path: str, question: Question) -> FleetStatus:
    """Raises `OSError` where nobody is there any more."""
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.closing(writer):
        writer.write(msgspec.json.encode(question) + b"\n")
        return msgspec.json.decode(await reader.readline(), type=FleetStatus)
