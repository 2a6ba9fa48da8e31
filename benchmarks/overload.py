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
- right: of the answered, those with the right boxed answer; right/s: those of goodput that are.
- capped: of the answered, those that say that a brownout has set their thinking budget.
- let in: of the refused who came back when Retry-After said, how many then got 200 and were not
  refused again (the end of the load cuts off some who still wait: they are neither); `late`: the
  same for those told a time after the arrivals had ended.

    python -m benchmarks.overload            # table, one JSON line, bench-results/overload.json

Brownout against refusals (`docs/decisions/0013-brownout.md`), on the demo's own traces, or with
`--thinking-tokens 300` on traces that are kept open, so that a brownout has something to cut:

    python -m benchmarks.overload --targets "router,router with brownout" --multiples 0.5,1,1.5,2 \\
        --problems chain:10 --max-in-flight 16 --plot bench-results/brownout.png
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.loadtest.figures import is_good
from benchmarks.loadtest.record import Record
from benchmarks.open_loop import Arrivals, Asking, Visitor, run
from benchmarks.options import parser_for
from benchmarks.processes import Child, free_port
from benchmarks.slo import Slo
from benchmarks.stats import percentile, table, without_nan
from demo_model.problem import Problem
from demo_model.problems import held_out_problems
from demo_model.sums import chain
from serve.load import parse_load
from serve.settings import config_dir

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SLOTS = (64, 48, 32, 24, 16, 12, 8)
"""Tried in turn; the demo's engine runs no more than the first."""
_TO_SPARE = 0.7
"""Of the limits, for slots that are found: the machine's speed wavers by so much."""


@dataclass(frozen=True, slots=True)
class Settings:
    targets: str = "router,bare vLLM"
    """Of these and `router with brownout`."""
    problems: str = "addition"
    """Kinds of the demo model's held-out problems, asked in turn: `chain:10` has ten numbers."""
    thinking_tokens: int = 0
    """The mean length of traces that the model isn't let close; 0: its own, which are short."""
    multiples: str = "0.5,0.8,1,1.5,2,3"
    seconds: float = 15.0
    max_in_flight: int = 0
    capacity_per_s: float = 0.0
    """0: measured."""
    queue_timeout_s: float = 1.5
    returns: int = 3
    slo_ttft_s: float = 2.0
    slo_tpot_s: float = 0.08
    min_thinking_tokens: int = 32
    recovery_s: float = 12.0
    """Of the brownout: for traces of about 100 tokens that take 1 to 3 s."""
    plot: str = ""
    out: str = "bench-results/overload.json"

    @property
    def slo(self) -> Slo:
        return Slo(1000 * self.slo_ttft_s, 1000 * self.slo_tpot_s)


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
    right: float
    right_goodput_per_s: float
    capped: float
    tokens_per_answer: float


def summarise(
    target: str, multiple: float, arrivals: Arrivals, visitors: Sequence[Visitor], slo: Slo
) -> Row:
    attempts = [attempt for visitor in visitors for attempt in visitor.attempts]
    in_time = [a for a in attempts if a.due_at_s <= arrivals.seconds]
    answered = [a for a in in_time if a.ok]
    good = [a for a in in_time if is_good(a, slo)]
    ttft_s = [a.ttft_s for a in answered if a.ttft_s is not None]
    refused = [v for v in visitors if v.attempts[0].refused]
    back = [a for v in refused for a in v.attempts[1:]]
    late = [a for a in back if a.due_at_s > arrivals.seconds]
    return Row(
        target,
        multiple,
        len(visitors) / arrivals.seconds,
        len(answered) / arrivals.seconds,
        len(good) / arrivals.seconds,
        percentile(ttft_s, 50),
        percentile(ttft_s, 99),
        len(refused) / len(visitors),
        _share(back),
        _share(late),
        len(attempts) / max(1, sum(a.ok for a in attempts)),
        sum(bool(a.right) for a in answered) / max(1, len(answered)),
        sum(bool(a.right) for a in good) / arrivals.seconds,
        sum(a.budget_source == "brownout" for a in answered) / max(1, len(answered)),
        sum(a.output_tokens for a in answered) / max(1, len(answered)),
    )


def _share(attempts: Sequence[Record]) -> float:
    decided = [a.status == 200 for a in attempts if a.status]
    return sum(decided) / len(decided) if decided else math.nan


class Stack:
    """The engine, and the router over it once it is known how many slots it gets."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overload")))
        cpu = str(config_dir() / "cpu.toml")
        self.engine = self._start("engine", ["--config", cpu], "/health", timeout_s=300)

    def start_router(self, settings: Settings, num_slots: int, brownout: bool) -> str:
        name = "brownout" if brownout else "router"
        config = self._scratch / f"{name}.toml"
        config.write_text(
            f"[server]\nlog_level = 'warning'\n[router]\nmax_in_flight = {num_slots}\n"
            f"max_queued = {num_slots}\nqueue_timeout_s = {settings.queue_timeout_s}\n"
            f"[brownout]\nenabled = {str(brownout).lower()}\nrecovery_s = {settings.recovery_s}\n"
            f"min_thinking_tokens = {settings.min_thinking_tokens}\n"
        )
        argv = ["--config", str(config), "--engine-url", self.engine]
        return self._start("router", argv, "/ready", timeout_s=60, log=name)

    def _start(
        self, what: str, argv: Sequence[str], ready: str, timeout_s: float, log: str = "engine"
    ) -> str:
        port = free_port()
        child = Child(
            [sys.executable, "-m", "serve", what, *argv, "--port", str(port)],
            self._scratch / f"{log}.log",
        )
        self._stack.callback(child.stop)
        child.wait_ready(f"http://127.0.0.1:{port}{ready}", timeout_s=timeout_s)
        return f"http://127.0.0.1:{port}"

    def wait_idle(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with urllib.request.urlopen(self.engine + "/metrics", timeout=30) as reply:
                load = parse_load(reply.read())
            if load is not None and not load.num_running + load.num_waiting:
                return
            time.sleep(0.1)
        raise RuntimeError("the engine did not become idle")


async def keep_busy(arrivals: Arrivals, clients: int, seconds: float) -> list[Record]:
    """`clients` that never pause for `seconds`, and then end what they have."""
    asking, records = Asking(arrivals), list[Record]()

    async def client(number: int) -> None:
        while asking.window.clock() < seconds:
            records.append(record := Record("client", asking.window.clock()))
            await asking.ask(number, record)
            number += clients

    await asyncio.gather(*map(client, range(clients)))
    asking.close()
    return records


def capacity_of(records: Sequence[Record], from_s: float, to_s: float) -> float:
    """Answers per second between the two times."""
    ends_s = [it.ended_at_s for it in records if it.ok and it.ended_at_s is not None]
    return sum(from_s <= end_s < to_s for end_s in ends_s) / (to_s - from_s)


def find_slots(engine: Arrivals, settings: Settings) -> int:
    """The most clients of which the engine serves 95 % well within the limits; the fewest tried,
    where even those are too many."""
    strict = replace(
        settings,
        slo_ttft_s=_TO_SPARE * settings.slo_ttft_s,
        slo_tpot_s=_TO_SPARE * settings.slo_tpot_s,
    ).slo
    for num_slots in _SLOTS:
        records = asyncio.run(keep_busy(engine, num_slots, 6))
        if sum(is_good(record, strict) for record in records) >= 0.95 * len(records):
            break
    return num_slots


def held_out(kind: str, num: int = 400) -> list[Problem]:
    """Held-out problems of a kind, or chains of one length (`chain:10`)."""
    kind, _, length = kind.partition(":")
    if not length:
        return held_out_problems(kind, num, seed=7)
    chance = Random(7)
    chains = (chain(chance, "en", length=int(length), slip_rate=0.0) for _ in repeat(None))
    return list(islice((problem for problem in chains if problem.held_out), num))


def long_thinking(engine: str, mean_tokens: int) -> Sequence[Mapping[str, object]]:
    """What makes the model think longer than it ever would: it may not close its trace, the router
    does so after a number of tokens that varies as real traces do. Its answers are worth nothing
    then, but the engine's work for them is real."""
    if not mean_tokens:
        return ({},)
    body = json.dumps({"prompt": "</think>", "add_special_tokens": False}).encode()
    request = urllib.request.Request(
        engine + "/tokenize", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        (close_id,) = json.load(reply)["tokens"]
    chance = Random(7)
    lengths = (mean_tokens * chance.lognormvariate(-0.18, 0.6) for _ in range(400))
    most = 4 * mean_tokens
    return [
        {"thinking_token_budget": min(most, round(length)), "logit_bias": {close_id: -100}}
        for length in lengths
    ]


def measure(settings: Settings) -> list[Row]:
    kinds = map(held_out, settings.problems.split(","))
    problems = [problem for group in zip(*kinds, strict=True) for problem in group]
    prompts = [problem.question for problem in problems]
    rows: list[Row] = []
    with ExitStack() as stack:
        up = Stack(stack)
        engine = Arrivals(up.engine, "r1-demo", prompts, rate=1, seconds=1)
        extra = long_thinking(up.engine, settings.thinking_tokens)
        max_tokens = 400 + 4 * settings.thinking_tokens
        asyncio.run(keep_busy(engine, 8, 3))  # warms it up
        num_slots = settings.max_in_flight or find_slots(engine, settings)
        urls = {
            name: up.engine
            if name == "bare vLLM"
            else up.start_router(settings, num_slots, name == "router with brownout")
            for name in settings.targets.split(",")
        }
        if settings.thinking_tokens:  # which takes the router
            engine = replace(engine, url=urls["router"], extra=extra, max_tokens=max_tokens)
        capacity = settings.capacity_per_s or capacity_of(
            asyncio.run(keep_busy(engine, num_slots, 18)), 6, 18
        )
        print(f"{num_slots} slots, capacity: {capacity:.1f} answers per second", flush=True)
        for multiple in map(float, settings.multiples.split(",")):
            for target, url in urls.items():
                up.wait_idle()
                load = Arrivals(
                    url,
                    "r1-demo",
                    prompts,
                    rate=multiple * capacity,
                    seconds=settings.seconds,
                    answers=[problem.answer for problem in problems],
                    returns=settings.returns,
                    patience_s=settings.seconds,
                    max_tokens=max_tokens,
                    seed=round(10 * multiple),
                    extra=extra,
                )
                visitors = asyncio.run(run(load))
                rows.append(summarise(target, multiple, load, visitors, settings.slo))
                print(rows[-1], flush=True)
    return rows


def render(rows: Sequence[Row]) -> str:
    peak = max(row.goodput_per_s for row in rows if row.target == "router")
    titles = "|x capacity|offered/s|answered/s|goodput/s|of peak|TTFT p50 s|p99 s"
    titles += "|refused|let in|late|tries|right|right/s|capped|tokens"
    lines = [titles.split("|")]
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
                _percent(row.right),
                f"{row.right_goodput_per_s:.1f}",
                _percent(row.capped),
                f"{row.tokens_per_answer:.0f}",
            ]
        )
    return table(lines)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def plot(rows: Sequence[Row], path: Path, judged: bool) -> None:
    """What was answered within the limits and what was refused, against the load, and where answers
    are `judged` how many were right; of a multiple that was measured several times the means."""
    from matplotlib import pyplot as plt

    def draw(axes: Axes, field: str, target: str, style: str, color: str, scale: float = 1) -> None:
        own = [row for row in rows if row.target == target]
        loads = sorted({row.multiple for row in own})
        means = [fmean(getattr(row, field) for row in own if row.multiple == at) for at in loads]
        axes.plot(loads, [scale * mean for mean in means], style, color=color)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    targets = list(dict.fromkeys(row.target for row in rows))
    for number, target in enumerate(targets):
        color = f"C{number}"
        left.plot([], [], color=color, label=target)
        draw(left, "goodput_per_s", target, "o-", color)
        draw(right, "refused", target, "o-", color, 100)
        if judged:
            draw(left, "right_goodput_per_s", target, "s--", color)
            draw(right, "right", target, "s--", color, 100)
    for axes, solid, dashed in (
        (left, "answered within the limits", "and right"),
        (right, "refused at first, of all", "right, of the answered"),
    ):
        axes.plot([], [], "o-", color="grey", label=solid)
        if judged:
            axes.plot([], [], "s--", color="grey", label=dashed)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left")
    left.set(xlabel="load, x capacity", ylabel="requests per second", ylim=0)
    right.set(xlabel="load, x capacity", ylabel="%", ylim=(-3, 103))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Settings(), "benchmarks.overload", __doc__)
    settings = Settings(**vars(parser.parse_args(argv)))
    rows = measure(settings)
    print("\n" + render(rows) + "\n")
    report = {
        "benchmark": "overload",
        "settings": asdict(settings),
        "rows": without_nan([asdict(row) for row in rows]),
    }
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    if settings.plot:
        plot(rows, Path(settings.plot), judged=not settings.thinking_tokens)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
