"""What the fault tests share: engines that play bytes, clients that speak raw HTTP, and the look at
what a fault left behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.client import HTTPResponse
from typing import Any, NamedTuple, cast

import httpx
import psutil

from benchmarks.stand_in import Connection, Options, StandInEngine
from serve.engine_process import free_port
from tests.conftest import ROOT, Program
from tests.support import RunningRouter, eventually, running_router

FAST: dict[str, Any] = {"step_ms": 0, "prefill_ms": 0}
TRACE, ANSWER = "First 2 + 2 < 5.\n\nThat is 4 🙂.", "It is \\boxed{4}, so <b>4</b>."
MESSAGE = "script:" + json.dumps({"think": f"{TRACE}\n", "answer": f"\n\n{ANSWER}"})
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHAT = "/v1/chat/completions"

Play = Callable[[asyncio.Transport], Awaitable[None]]


class PlayedEngine(StandInEngine):
    """A stand-in whose generations `play` answers on the bare transport; all else, and them
    too while `play` is None, it answers itself."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or Options(**FAST))
        self.play: Play | None = None
        self.num_played = 0
        self.plays: set[asyncio.Task[None]] = set()

    def handle(self, connection: Connection, method: str, path: str, data: bytes) -> None:
        if method != "POST" or "completions" not in path or self.play is None:
            super().handle(connection, method, path, data)
            return
        self.num_played += 1
        task = asyncio.create_task(self._run(self.play, connection.transport))
        self.plays.add(task)
        task.add_done_callback(self.plays.discard)

    async def _run(self, play: Play, transport: asyncio.Transport) -> None:
        with contextlib.suppress(ConnectionError):
            await play(transport)

    async def stop(self) -> None:
        for task in self.plays:
            task.cancel()
        await super().stop()


def sending(*parts: bytes, then: str = "keep") -> Play:
    """Writes `parts`, each in a packet of its own; then `keep`s the connection, `close`s or
    `reset`s it, sends an `eof` and listens on, or `hold`s it until the other side leaves."""

    async def play(transport: asyncio.Transport) -> None:
        for part in parts:
            transport.write(part)
            await asyncio.sleep(0)
        if then == "close":
            transport.close()
        elif then == "reset":
            transport.abort()
        elif then == "eof":
            transport.write_eof()
        if then in ("eof", "hold"):
            await until_closed(transport)

    return play


def chunk(data: bytes) -> bytes:
    """`data` as one HTTP chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def until_closed(transport: asyncio.Transport) -> None:
    await eventually(transport.is_closing)


async def recorded(stream: bool = True, mode: Any = "split", text: str = MESSAGE) -> bytes:
    """All bytes with which an engine answers the router's chat request."""
    asked: list[bytes] = []

    class Recorder(StandInEngine):
        def handle(self, connection: Connection, method: str, path: str, data: bytes) -> None:
            if path == CHAT:
                asked.append(data)
            super().handle(connection, method, path, data)

    async with Recorder(Options(mode=mode, **FAST)) as engine, running_router(engine.url) as router:
        await router.chat(text, stream=stream)
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % (
            CHAT.encode(),
            len(asked[-1]),
        )
        raw = await exchange(engine.url, head + b"connection: close\r\n\r\n" + asked[-1])
    return raw.replace(b"connection: close\r\n", b"")


# --- clients ------------------------------------------------------------------------------------


class RawReply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.body)["error"])


def parse_reply(raw: bytes) -> RawReply:
    """The first reply in `raw`. Raises `http.client.HTTPException` where it isn't a whole one."""

    class File:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(raw)

    with HTTPResponse(cast(Any, File())) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return RawReply(response.status, headers, response.read())


def request_bytes(
    body: bytes | dict[str, Any] | None = None, headers: bytes = b"", path: str = CHAT
) -> bytes:
    """A POST that asks to close the connection after it; by default a whole chat of `MESSAGE`."""
    if body is None:
        body = chat_body()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%bcontent-length: %d\r\n\r\n%b" % (
        path.encode(),
        headers,
        len(data),
        data,
    )


def chat_body(text: str = MESSAGE, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def connect(url: str, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = httpx.URL(url)
    return await asyncio.open_connection(parts.host, parts.port, **options)


async def exchange(url: str, request: bytes, within_s: float = 20) -> bytes:
    """Sends `request`, reads until the server closes."""
    reader, writer = await connect(url)
    try:
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
            parts = []
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(1 << 20):
                    parts.append(part)
            return b"".join(parts)
    finally:
        writer.close()


# --- processes ----------------------------------------------------------------------------------


@contextlib.contextmanager
def stand_in_process(*options: str) -> Iterator[str]:
    """The URL of a stand-in engine in a process of its own."""
    port = str(free_port("127.0.0.1"))
    command = [sys.executable, "-m", "benchmarks.stand_in", "--port", port, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def router_over(engine_url: str) -> Iterator[tuple[str, psutil.Process]]:
    """The ready router's URL and process."""
    program = Program("router", "--engine-url", engine_url, "--port", "0")
    try:
        line = program.wait_for("Serving ", 30)
        match = re.search(r"http://[\d.:]+", line.rpartition(" at ")[2])
        assert match
        deadline = time.monotonic() + 30
        while httpx.get(f"{match[0]}/ready").status_code != 200:
            assert time.monotonic() < deadline, "the router did not become ready"
            time.sleep(0.05)
        yield match[0], psutil.Process(program.process.pid)
        assert program.stop() == 0
    finally:
        program.close()


# --- what is left -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def faultless_after(*engines: StandInEngine, **settings: Any) -> AsyncIterator[RunningRouter]:
    """A router over `engines`; when the test is done with it, nothing of its requests is left."""
    async with running_router(*(engine.url for engine in engines), **settings) as router:
        before = await Traces.taken(router)
        yield router
        await router.http.aclose()
        await no_trace_left(router, engines, before)


class Traces(NamedTuple):
    """What a router holds, its connections to engines apart."""

    tasks: Counter[str]
    num_fds: int

    @classmethod
    def now(cls, router: RunningRouter) -> Traces:
        replicas = router.router.replicas.replicas
        num_connections = sum(replica.client.num_connections for replica in replicas)
        tasks = Counter(_name(task) for task in asyncio.all_tasks() - {asyncio.current_task()})
        num_fds = len(os.listdir("/proc/self/fd"))
        return cls(tasks, num_fds - 2 * num_connections)  # two: the engines are of this process

    @classmethod
    async def taken(cls, router: RunningRouter) -> Traces:
        """The most of several looks: probes come and go."""
        looks = []
        for _ in range(6):
            looks.append(cls.now(router))
            await asyncio.sleep(0.01)
        tasks: Counter[str] = Counter()
        for look in looks:
            tasks |= look.tasks
        return cls(tasks, max(look.num_fds for look in looks))


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "?")


async def no_trace_left(
    router: RunningRouter,
    engines: tuple[StandInEngine, ...],
    before: Traces,
    within_s: float = 10.0,
) -> None:
    """Fails with what is left: generations, slots, leases, tasks, file descriptors."""
    deadline = time.monotonic() + within_s
    while left := _left(router, engines, before):
        assert time.monotonic() < deadline, f"left behind: {left}"
        await asyncio.sleep(0.01)


def _left(
    router: RunningRouter, engines: tuple[StandInEngine, ...], before: Traces
) -> dict[str, object]:
    now = Traces.now(router)
    state = router.router
    found: dict[str, object] = {
        "running": sum(len(e.running) + len(e.waiting) for e in engines),
        "plays": sum(len(getattr(e, "plays", ())) for e in engines),
        "in flight": sum(replica.num_in_flight for replica in state.replicas.replicas),
        "slots": state.gate.num_in_flight,
        "tasks": dict(now.tasks - before.tasks),
        "file descriptors": max(0, now.num_fds - before.num_fds),
    }
    return {name: value for name, value in found.items() if value}
