"""Whether the router's memory stays small with many open streams, and flat over many requests.

First `--streams` streams are opened on a slow stand-in engine and held, and the router's resident
memory is read. Then a router over a fast one serves `--requests` short replies, streamed and whole
in turns of `--slice-s`, with its memory read after each turn. What is allocated once is allocated
early: growth is judged over the second half of the requests.

    python -m benchmarks.soak                       # about 5 minutes; exit 1 over a limit
    python -m benchmarks.soak --requests 20000      # a quick look
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import Load
from benchmarks.options import parser_for
from benchmarks.peers import CONTENDERS, Launch
from benchmarks.processes import Child, free_port

MODEL, OURS = "stand-in", "r1-serve"
_Samples = list[tuple[int, float]]  # (requests so far, MiB)


@dataclass(frozen=True, slots=True)
class Settings:
    streams: int = 1000
    requests: int = 200_000
    clients: int = 32
    slice_s: float = 10.0
    max_s: float = 900.0  # it stops here with what it has
    max_mib: float = 120.0  # with all streams open
    max_growth_mib: float = 4.0  # over the second half of the requests


@contextmanager
def _router(step_ms: float, think_tokens: int, answer_tokens: int) -> Iterator[tuple[str, Child]]:
    """A router's URL and process, over a stand-in engine of that speed."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-soak")))
        engine_url = f"http://127.0.0.1:{free_port()}"
        options = {
            "port": engine_url.rpartition(":")[2],
            "step-ms": step_ms,
            "think-tokens": think_tokens,
            "answer-tokens": answer_tokens,
            "max-num-seqs": 4096,
        }
        argv = [sys.executable, "-m", "benchmarks.stand_in"]
        argv += [f"--{name}={value}" for name, value in options.items()]
        engine = Child(argv, scratch / "engine.log")
        stack.callback(engine.stop)
        engine.wait_ready(engine_url + "/health")
        ours = CONTENDERS[OURS]
        at = Launch(engine_url, MODEL, free_port(), Path(sys.executable), scratch)
        router = Child(ours.argv(at) if ours.argv else [], scratch / "router.log", ours.env)
        stack.callback(router.stop)
        router.wait_ready(at.url + ours.ready)
        yield at.url, router


def _mib(router: Child) -> float:
    return router.usage().rss_bytes / 2**20


@contextmanager
def _under(load: Load) -> Iterator[Iterator[str]]:
    """A running load generator's lines: `begin`, `end`, and its figures."""
    argv = [sys.executable, "-m", "benchmarks.load"]
    for name, value in asdict(load).items():
        flag = name.replace("_", "-")
        on = "" if value else "no-"
        argv.append(f"--{on}{flag}" if isinstance(value, bool) else f"--{flag}={value}")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield iter(process.stdout or ())
        finally:
            process.kill()


def open_streams(settings: Settings) -> tuple[float, int]:
    """MiB with every stream open, and errors."""
    with _router(500, 100_000, 1) as (url, router):
        load = Load(url, MODEL, settings.streams, max_tokens=10_000, ramp_s=5)
        with _under(Load(**asdict(load) | {"warm_up_s": 8.0, "measure_s": 5.0})) as lines:
            next(lines)
            next(lines)
            mib = _mib(router)
            return mib, int(json.loads(next(lines))["num_errors"])


def many_requests(settings: Settings) -> tuple[_Samples, int]:
    """Memory by requests so far, and errors."""
    samples: _Samples = []
    num_requests = num_errors = 0
    deadline = time.monotonic() + settings.max_s
    with _router(0.2, 2, 2) as (url, router):
        while num_requests < settings.requests and time.monotonic() < deadline:
            load = Load(
                url,
                MODEL,
                settings.clients,
                stream=len(samples) % 2 == 0,
                max_tokens=16,
                ramp_s=0.1,
                pause_s=0.0,
                warm_up_s=0.2,
                measure_s=settings.slice_s,
            )
            with _under(load) as lines:
                figures = json.loads(list(lines)[-1])
            num_requests += figures["num_requests"]
            num_errors += figures["num_errors"]
            samples.append((num_requests, _mib(router)))
            print(f"{num_requests:7} requests  {samples[-1][1]:.1f} MiB", flush=True)
    return samples, num_errors


def growth(samples: _Samples) -> float:
    """MiB gained over the second half of the requests, by the least-squares line through them."""
    half = [it for it in samples if it[0] >= samples[-1][0] / 2]
    if len(half) < 2:
        return 0.0
    at = sum(x for x, _ in half) / len(half)
    mean = sum(y for _, y in half) / len(half)
    slope = sum((x - at) * (y - mean) for x, y in half) / sum((x - at) ** 2 for x, _ in half)
    return slope * (half[-1][0] - half[0][0])


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Settings(), "benchmarks.soak", __doc__)
    settings = Settings(**vars(parser.parse_args(argv)))
    mib, num_stream_errors = open_streams(settings)
    print(f"{settings.streams} open streams: {mib:.1f} MiB", flush=True)
    samples, num_errors = many_requests(settings)
    grown = growth(samples)
    report = {
        "benchmark": "soak",
        "settings": asdict(settings),
        "open_streams_mib": mib,
        "num_requests": samples[-1][0],
        "growth_mib": grown,
        "num_errors": num_stream_errors + num_errors,
        "samples": samples,
    }
    print(json.dumps(report))
    failed = mib > settings.max_mib or grown > settings.max_growth_mib or num_errors
    return 1 if failed or num_stream_errors or samples[-1][0] < settings.requests else 0


if __name__ == "__main__":
    sys.exit(main())
