"""What overload does: real vLLM behind the router, and bare beside it, at up to 3 x capacity.

One engine (the demo model on a CPU), started by `r1-serve engine`; the router over it, with
`--max-in-flight` slots and a line as long; an open-loop load (benchmarks/open_loop.py) in this
process. Without `--max-in-flight` it takes the most slots with which the engine keeps to the limits
below with three tenths to spare, as an operator would. Capacity is what the bare engine completes
per second with as many clients that never pause, the first third of the time left out. Then, for
each multiple of it, the router and the bare engine take their turns.

Definitions
- goodput: requests per second of the arrival time that were answered in full, with TTFT and time
  per output token within the limits (MLPerf's for servers, 2 s and 80 ms).
- refused: visitors' first attempts that got 429 or 503.
- let in: of the refused who came back when Retry-After said, how many then got 200 and were not
  refused again (the end of the load cuts off some who still wait: they are neither); `late`: the
  same for those told a time after the arrivals had ended.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.open_loop import Arrivals, Attempt, Clock, Visitor, ask, run
from benchmarks.processes import Child, free_port
from benchmarks.stats import percentile, table
from demo_model.problems import held_out_problems
from serve.settings import config_dir

_SLOTS = (64, 48, 32, 24, 16, 12, 8)
"""Tried in turn; the demo's engine runs no more than the first."""
_TO_SPARE = 0.7
"""Of the limits, for slots that are found: the machine's speed wavers by so much."""
_BUSY = re.compile(rb"^vllm:num_requests_(?:running|waiting)\{.*\} ([0-9.e+]+)$", re.M)


@dataclass(frozen=True, slots=True)
class Settings:
    multiples: str = "0.5,0.8,1,1.5,2,3"
    seconds: float = 15.0
    max_in_flight: int = 0
    queue_timeout_s: float = 1.5
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
    decided = [a.status == 200 for a in attempts if a.status]
    return sum(decided) / len(decided) if decided else math.nan


class Stack:
    """The engine, and the router over it once it is known how many slots it gets."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overload")))
        cpu = str(config_dir() / "cpu.toml")
        self.engine = self._start("engine", ["--config", cpu], "/health", timeout_s=300)

    def start_router(self, settings: Settings, num_slots: int) -> str:
        config = self._scratch / "router.toml"
        config.write_text(
            f"[server]\nlog_level = 'warning'\n[router]\nmax_in_flight = {num_slots}\n"
            f"max_queued = {num_slots}\nqueue_timeout_s = {settings.queue_timeout_s}\n"
        )
        argv = ["--config", str(config), "--engine-url", self.engine]
        return self._start("router", argv, "/ready", timeout_s=60)

    def _start(self, what: str, argv: Sequence[str], ready: str, timeout_s: float) -> str:
        port = free_port()
        child = Child(
            [sys.executable, "-m", "serve", what, *argv, "--port", str(port)],
            self._scratch / f"{what}.log",
        )
        self._stack.callback(child.stop)
        child.wait_ready(f"http://127.0.0.1:{port}{ready}", timeout_s=timeout_s)
        return f"http://127.0.0.1:{port}"

    def wait_idle(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with urllib.request.urlopen(self.engine + "/metrics", timeout=30) as reply:
                if not sum(map(float, _BUSY.findall(reply.read()))):
                    return
            time.sleep(0.1)
        raise RuntimeError("the engine did not become idle")


async def keep_busy(arrivals: Arrivals, clients: int, seconds: float) -> list[Attempt]:
    """`clients` that never pause for `seconds`, and then end what they have."""

    clock, attempts = Clock(), []

    async def client(number: int) -> None:
        while clock.now_s() < seconds:
            attempts.append(attempt := Attempt(clock.now_s()))
            await ask(arrivals.url, arrivals.request(number), attempt, clock)
            number += clients

    await asyncio.gather(*map(client, range(clients)))
    return attempts


def capacity_of(attempts: Sequence[Attempt], from_s: float, to_s: float) -> float:
    """Answers per second between the two times."""
    ends_s = [a.ended_at_s for a in attempts if a.ok and a.ended_at_s is not None]
    return sum(from_s <= end_s < to_s for end_s in ends_s) / (to_s - from_s)


def find_slots(engine: Arrivals, settings: Settings) -> int:
    """The most clients of which the engine serves 95 % well within the limits; the fewest tried,
    where even those are too many."""
    strict = replace(
        settings,
        slo_ttft_s=_TO_SPARE * settings.slo_ttft_s,
        slo_tpot_s=_TO_SPARE * settings.slo_tpot_s,
    )
    for num_slots in _SLOTS:
        attempts = asyncio.run(keep_busy(engine, num_slots, 6))
        if sum(good(attempt, strict) for attempt in attempts) >= 0.95 * len(attempts):
            break
    return num_slots


def measure(settings: Settings) -> list[Row]:
    prompts = [p.question for p in held_out_problems("addition", 400, seed=7)]
    rows: list[Row] = []
    with ExitStack() as stack:
        up = Stack(stack)
        engine = Arrivals(up.engine, "r1-demo", prompts, rate=1, seconds=1)
        asyncio.run(keep_busy(engine, 8, 3))  # warms it up
        num_slots = settings.max_in_flight or find_slots(engine, settings)
        capacity = capacity_of(asyncio.run(keep_busy(engine, num_slots, 18)), 6, 18)
        print(f"{num_slots} slots, capacity: {capacity:.1f} answers per second", flush=True)
        router = up.start_router(settings, num_slots)
        for multiple in map(float, settings.multiples.split(",")):
            for target, url in (("router", router), ("bare vLLM", up.engine)):
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
