"""What overload does: real vLLM behind the router, and bare beside it, at up to 3 x capacity.

One engine (the demo model on a CPU), started by `r1-serve engine`; the router over it, with the
limits of `--max-in-flight` and `--max-queued`; an open-loop load (benchmarks/open_loop.py) in this
process. Capacity is what the bare engine completes per second with `--max-in-flight` clients that
never pause. Then, for each multiple of it, the router and the bare engine take their turns.

Definitions
- goodput: requests per second of the arrival time that were answered in full, with TTFT and time
  per output token within the limits (MLPerf's for servers, 2 s and 80 ms).
- refused: visitors' first attempts that got 429 or 503.
- let in: of the refused who came back when Retry-After said, how many got an answer then; `late`:
  the same for those told a time after the arrivals had ended.

    python -m benchmarks.overload            # table, one JSON line, bench-results/overload.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.open_loop import Arrivals, Attempt, Clock, Visitor, ask, run
from benchmarks.processes import Child, free_port
from benchmarks.stats import percentile, table
from demo_model.problems import held_out_problems
from serve.settings import config_dir

_BUSY = re.compile(rb"^vllm:num_requests_(?:running|waiting)\{.*\} ([0-9.e+]+)$", re.M)


@dataclass(frozen=True, slots=True)
class Settings:
    multiples: str = "0.5,0.8,1,1.5,2,3"
    seconds: float = 15.0
    max_in_flight: int = 64
    max_queued: int = 64
    queue_timeout_s: float = 1.0
    returns: int = 3
    slo_ttft_s: float = 2.0
    slo_tpot_s: float = 0.08
    out: str = "bench-results/overload.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One target under one load."""

    target: str
    multiple: float
    offered_per_s: float
    completed_per_s: float
    goodput_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    refused: float
    let_in: float
    let_in_late: float
    attempts_per_answer: float


def good(attempt: Attempt, settings: Settings) -> bool:
    return (
        attempt.ok
        and attempt.ttft_s is not None
        and attempt.ttft_s <= settings.slo_ttft_s
        and attempt.tpot_s <= settings.slo_tpot_s
    )


def summarise(
    target: str, multiple: float, arrivals: Arrivals, visitors: Sequence[Visitor], s: Settings
) -> Row:
    attempts = [attempt for visitor in visitors for attempt in visitor.attempts]
    in_time = [a for a in attempts if a.sent_at_s <= arrivals.seconds]
    answered = [a for a in in_time if a.ok]
    ttft_s = [a.ttft_s for a in answered if a.ttft_s is not None]
    refused = [v for v in visitors if v.attempts[0].status in (429, 503)]
    back = [a for v in refused for a in v.attempts[1:]]
    late = [a for a in back if a.sent_at_s > arrivals.seconds]
    return Row(
        target,
        multiple,
        len(visitors) / arrivals.seconds,
        len(answered) / arrivals.seconds,
        sum(good(a, s) for a in in_time) / arrivals.seconds,
        percentile(ttft_s, 50),
        percentile(ttft_s, 99),
        len(refused) / len(visitors),
        _share(back),
        _share(late),
        len(attempts) / max(1, sum(a.ok for a in attempts)),
    )


def _share(attempts: Sequence[Attempt]) -> float:
    return sum(a.ok for a in attempts) / len(attempts) if attempts else math.nan


class Stack:
    """The engine, and the router over it."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overload")))
        port, router_port = free_port(), free_port()
        self.engine, self.router = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{router_port}"
        serve = [sys.executable, "-m", "serve"]
        cpu = str(config_dir() / "cpu.toml")
        config = scratch / "router.toml"
        config.write_text(
            f"[server]\nlog_level = 'warning'\n[router]\nmax_in_flight = {settings.max_in_flight}\n"
            f"max_queued = {settings.max_queued}\nqueue_timeout_s = {settings.queue_timeout_s}\n"
        )
        engine = Child(
            [*serve, "engine", "--config", cpu, "--port", str(port)], scratch / "engine.log"
        )
        stack.callback(engine.stop)
        engine.wait_ready(self.engine + "/health", timeout_s=300)
        argv = ["router", "--config", str(config), "--engine-url", self.engine]
        router = Child([*serve, *argv, "--port", str(router_port)], scratch / "router.log")
        stack.callback(router.stop)
        router.wait_ready(self.router + "/ready", timeout_s=60)

    def wait_idle(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with urllib.request.urlopen(self.engine + "/metrics", timeout=30) as reply:
                if not sum(map(float, _BUSY.findall(reply.read()))):
                    return
            time.sleep(0.1)
        raise RuntimeError("the engine did not become idle")


async def capacity_of(arrivals: Arrivals, clients: int, seconds: float) -> float:
    """Answers per second with `clients` that never pause."""

    clock, count = Clock(), 0

    async def client(number: int) -> None:
        nonlocal count
        while clock.now_s() < seconds:
            attempt = Attempt(clock.now_s())
            await ask(arrivals.url, arrivals.request(number), attempt, clock)
            count += attempt.ok
            number += clients

    await asyncio.gather(*map(client, range(clients)))
    return count / clock.now_s()


def measure(settings: Settings) -> list[Row]:
    prompts = [p.question for p in held_out_problems("addition", 400, seed=7)]
    rows: list[Row] = []
    with ExitStack() as stack:
        up = Stack(settings, stack)
        engine = Arrivals(up.engine, "r1-demo", prompts, rate=1, seconds=1)
        asyncio.run(capacity_of(engine, 8, 3))  # warms it up
        capacity = asyncio.run(capacity_of(engine, settings.max_in_flight, 12))
        print(f"capacity: {capacity:.1f} answers per second", flush=True)
        for multiple in map(float, settings.multiples.split(",")):
            for target, url in (("router", up.router), ("bare vLLM", up.engine)):
                up.wait_idle()
                load = Arrivals(
                    url,
                    "r1-demo",
                    prompts,
                    rate=multiple * capacity,
                    seconds=settings.seconds,
                    returns=settings.returns,
                    patience_s=settings.seconds,
                    seed=round(10 * multiple),
                )
                visitors = asyncio.run(run(load))
                rows.append(summarise(target, multiple, load, visitors, settings))
                print(rows[-1], flush=True)
    return rows


def render(rows: Sequence[Row]) -> str:
    peak = max(row.goodput_per_s for row in rows if row.target == "router")
    titles = "|x capacity|offered/s|answered/s|goodput/s|of peak|TTFT p50 s|p99 s"
    lines = [f"{titles}|refused|let in|late|tries".split("|")]
    for row in rows:
        lines.append(
            [
                row.target,
                f"{row.multiple:g}",
                f"{row.offered_per_s:.1f}",
                f"{row.completed_per_s:.1f}",
                f"{row.goodput_per_s:.1f}",
                f"{100 * row.goodput_per_s / peak:.0f} %",
                f"{row.ttft_p50_s:.2f}",
                f"{row.ttft_p99_s:.2f}",
                f"{100 * row.refused:.0f} %",
                _percent(row.let_in),
                _percent(row.let_in_late),
                f"{row.attempts_per_answer:.2f}",
            ]
        )
    return table(lines)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.overload", description=__doc__.split("\n")[0])
    for name, value in asdict(Settings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    settings = Settings(**vars(parser.parse_args(argv)))
    rows = measure(settings)
    print("\n" + render(rows) + "\n")
    report = {
        "benchmark": "overload",
        "settings": asdict(settings),
        "rows": [{k: None if v != v else v for k, v in asdict(row).items()} for row in rows],
    }
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
