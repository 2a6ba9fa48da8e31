"""The load generator: N closed-loop clients on one engine or router, in a process of its own.

Each client sends a request, reads the reply to its end, waits a random time up to `pause_s`, and
sends the next. Starts are spread over `ramp_s`. So requests come out of step with each other and
with the engine's step clock; else a delay shorter than a step would not be seen in TTFT.
After the warm-up it prints `begin`, after the measured window `end`, then one JSON line with what
it saw in between; whoever started it reads CPU times at these two lines.

- An event: one `data: {` of a reply. TTFT: from writing the request to the first event with text.
- ITL: the time between two events of one stream after the first text; events that arrive in one
  read have 0 between them.
- An error: a status other than 200, a stream without `[DONE]`, a lost connection.

    python -m benchmarks.load --url http://127.0.0.1:8100 --streams 64
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar, cast
from urllib.parse import urlsplit

import httptools

from benchmarks.stats import percentile

T = TypeVar("T")

TEXT = re.compile(rb'"(?:reasoning|reasoning_content|content|text)": ?"[^"]')
_PROMPT = "Add 4821 and 2394 column by column and say what you carry."


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and for how long."""

    url: str
    model: str = "stand-in"
    streams: int = 64
    stream: bool = True
    max_tokens: int = 512
    ramp_s: float = 2.6
    pause_s: float = 0.04
    warm_up_s: float = 3.0
    measure_s: float = 6.0

    def request(self) -> bytes:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _PROMPT}],
            "stream": self.stream,
            "max_tokens": self.max_tokens,
            "temperature": 0.6,
        }
        return chat_request(self.url, body)


def chat_request(url: str, body: Mapping[str, object]) -> bytes:
    """The bytes of one HTTP request for a chat."""
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


@dataclass(slots=True)
class Seen:
    """What arrived within the measured window."""

    measuring: bool = False
    stopped: bool = False
    num_requests: int = 0
    num_events: int = 0
    num_errors: int = 0
    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    e2e_s: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One closed-loop client; reconnects when its connection ends."""

    def __init__(self, load: Load, request: bytes, seen: Seen):
        self.load, self.request, self.stream, self.seen = load, request, load.stream, seen
        self.lost = asyncio.Event()
        self.waiting = False
        self.last_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._send()

    def _send(self) -> None:
        if self.transport.is_closing():
            return
        self.waiting, self.done, self.first_at = True, not self.stream, 0.0
        self.sent_at = self.now = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.now = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.stream:
            return
        num_events = body.count(b"data: {")
        if b"[DONE]" in body:
            self.done = True
        if not num_events:
            return
        seen = self.seen
        if seen.measuring:
            seen.num_events += num_events
        if self.first_at:
            if seen.measuring:
                seen.itl_s.append(self.now - self.last_at)
                if num_events > 1:
                    seen.itl_s.extend([0.0] * (num_events - 1))
            self.last_at = self.now
        elif TEXT.search(body):
            self.first_at = self.last_at = self.now
            if seen.measuring:
                seen.ttft_s.append(self.now - self.sent_at)

    def on_message_complete(self) -> None:
        self.waiting = False
        seen = self.seen
        if seen.measuring:
            seen.num_requests += 1
            seen.e2e_s.append(self.now - self.sent_at)
            seen.num_errors += self._parser.get_status_code() != 200 or not self.done
        if not seen.stopped and self._parser.should_keep_alive():
            self._parser = httptools.HttpResponseParser(self)
            pause_s = self.load.pause_s * random.random()
            asyncio.get_running_loop().call_later(pause_s, self._send)
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting and not self.seen.stopped:
            self.seen.num_errors += 1
        self.lost.set()


async def _client(load: Load, request: bytes, start_at_s: float, seen: Seen) -> None:
    parts = urlsplit(load.url)
    await asyncio.sleep(start_at_s)
    while not seen.stopped:
        try:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: Client(load, request, seen), parts.hostname or "", parts.port or 80
            )
        except OSError:
            seen.num_errors += 1
            await asyncio.sleep(0.1)
            continue
        try:
            await client.lost.wait()
        finally:
            client.transport.abort()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(load: Load) -> dict[str, float]:
    """Puts the load on, prints `begin` and `end`, and returns the window's figures."""
    seen, request = Seen(), load.request()
    tasks = [
        asyncio.create_task(_client(load, request, load.ramp_s * i / load.streams, seen))
        for i in range(load.streams)
    ]
    await asyncio.sleep(load.warm_up_s)
    seen.measuring, seen.num_errors = True, 0
    started, cpu_s = time.perf_counter(), _cpu_s()
    print("begin", flush=True)
    await asyncio.sleep(load.measure_s)
    seen.measuring = False
    wall_s, cpu_s = time.perf_counter() - started, _cpu_s() - cpu_s
    print("end", flush=True)
    seen.stopped = True
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    figures = {
        "wall_s": wall_s,
        "load_cpu_s": cpu_s,
        "num_requests": seen.num_requests,
        "num_events": seen.num_events,
        "num_errors": seen.num_errors,
    }
    for name in ("ttft", "itl", "e2e"):
        values = getattr(seen, name + "_s")
        figures |= {f"{name}_p{p}_ms": 1000 * percentile(values, p) for p in (50, 99)}
    return figures


def run_apart(load: Load, look: Callable[[], T]) -> tuple[dict[str, float], T, T]:
    """Puts the load on from a process of its own; its figures, and what `look` gave at the
    beginning and at the end of the measured window."""
    argv = [sys.executable, "-m", "benchmarks.load"]
    for name, value in asdict(load).items():
        flag = name.replace("_", "-")
        argv += (
            [f"--{'' if value else 'no-'}{flag}"]
            if isinstance(value, bool)
            else [f"--{flag}", str(value)]
        )
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout or ())
            looks = []
            for mark in ("begin", "end"):
                if next(lines, "").strip() != mark:
                    raise RuntimeError("the load generator failed; see its message above")
                looks.append(look())
            figures: dict[str, float] = json.loads(next(lines))
        except BaseException:
            process.kill()
            raise
    return figures, looks[0], looks[1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__.split("\n")[0])
    for name, value in asdict(Load(url="")).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value)
        else:
            parser.add_argument(flag, type=type(value), default=value, required=name == "url")
    load = Load(**vars(parser.parse_args(argv)))
    try:
        import uvloop
    except ImportError:
        figures = asyncio.run(run(load))
    else:
        figures = uvloop.run(run(load))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
