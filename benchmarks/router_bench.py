"""What a router costs, beside its peers: CPU per streamed token, added TTFT, memory.

A stand-in engine (one, for all), each contender in its own process, a load generator in another,
all on loopback. The contenders take turns within each round, and every figure is the median over
rounds of figures from one round, so that what else the machine does cancels out. `direct` is the
load generator on the engine itself.

Definitions
- token: one that the engine generated in the measured window, by the engine's own counter; so the
  divisor is the same for a router that merges, drops or rewrites events.
- CPU µs per token: user + system time that the router's process and its descendants spent in the
  window, per token. It holds their share of requests: connecting, headers, JSON, closing.
- added TTFT: time to the first event with text, less `direct`'s in the same round.
- ITL: time between events of a stream, as a client sees it.
- CPU µs per request: the same for short non-streaming replies, per reply, by 64 clients.
- ratio: CPU per token, or per request, over vllm-router's in the same round.
- splits: whether the trace came out apart from the answer, tried once before measuring; in `raw`
  mode the engine sends both as one text with `</think>` in it.
- left: generations still running on the engine a second after every client hung up.

    python -m benchmarks.router_bench                      # table, one JSON line, bench-results/
    python -m benchmarks.router_bench --check              # exit 1 where it got worse
    python -m benchmarks.router_bench --contenders direct,r1-serve,vllm-router --streams 64

Memory under many streams, and over many requests: `python -m benchmarks.soak`.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.load import Load, run_apart
from benchmarks.machine import Machine
from benchmarks.options import parser_for
from benchmarks.peers import CONTENDERS, ROOT, Contender, InstallError, Launch, install
from benchmarks.processes import Child, NotReadyError, Usage, free_port
from benchmarks.stats import median_of, paired_difference, paired_ratio, table, without_nan

MODEL = "stand-in"
OURS, PEER, DIRECT = "r1-serve", "vllm-router", "direct"
_GENERATED = re.compile(rb"^vllm:generation_tokens_total\{.*\} ([0-9.e+]+)$", re.M)
_RUNNING = re.compile(rb"^vllm:num_requests_running\{.*\} ([0-9.e+]+)$", re.M)


@dataclass(frozen=True, slots=True)
class Settings:
    contenders: str = ",".join(CONTENDERS)
    rounds: int = 3
    streams: str = "64,256"  # each of these in turn
    mode: str = "raw"
    step_ms: float = 20.0
    think_tokens: int = 96
    answer_tokens: int = 32
    measure_s: float = 5.0
    check: bool = False
    # For --check: a little above the worst of the runs in docs/decisions/0009, so that what exceeds
    # them got worse. Times are above the peer's.
    max_token_ratio: float = 1.8
    max_request_ratio: float = 3.2
    max_ttft_p50_ms: float = 6.0
    max_ttft_p99_ms: float = 12.0
    max_itl_p99_ms: float = 10.0
    out: str = "bench-results/router.json"

    @property
    def stream_counts(self) -> list[int]:
        return [int(count) for count in self.streams.split(",")]

    @property
    def stream_s(self) -> float:
        """How long one stream lasts: its tokens, `</think>` and the end token."""
        return (self.think_tokens + self.answer_tokens + 2) * self.step_ms / 1000


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that is up; no child for `direct`."""

    contender: Contender
    url: str
    child: Child | None

    def usage(self) -> Usage:
        return self.child.usage() if self.child else Usage(0.0, 0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender in one round."""

    cpu_us_per_token: float
    cpu_us_per_request: float
    rss_mib: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    tokens_per_s: float
    events_per_token: float
    num_errors: int
    num_left: int
    engine_us_per_token: float
    load_us_per_token: float


class Bench:
    """Everything that is running, from the first process to the last round."""

    def __init__(self, settings: Settings, stack: ExitStack):
        self.settings = settings
        self._stack = stack
        self.scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-bench")))
        port = free_port()
        self.engine_url = f"http://127.0.0.1:{port}"
        engine = [sys.executable, "-m", "benchmarks.stand_in", "--port", str(port)]
        for name in ("mode", "step_ms", "think_tokens", "answer_tokens"):
            engine += ["--" + name.replace("_", "-"), str(getattr(settings, name))]
        self.engine = self._start("engine", [*engine, "--max-num-seqs", "4096"], {})
        self.engine.wait_ready(self.engine_url + "/health")

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> Child:
        child = Child(argv, self.scratch / f"{name}.log", env)
        self._stack.callback(child.stop)
        return child

    def start(self, contender: Contender) -> Running | None:
        """Brings a contender up; None, and a line that says why, when that fails."""
        if contender.argv is None:
            return Running(contender, self.engine_url, None)
        try:
            at = Launch(self.engine_url, MODEL, free_port(), install(contender), self.scratch)
            child = self._start(contender.name, contender.argv(at), contender.env)
            child.wait_ready(at.url + contender.ready, timeout_s=90)
            _chat(at.url)  # some answer before their engine is known to them
        except (InstallError, NotReadyError, OSError, ValueError) as error:
            print(f"{contender.name}: left out: {error}", flush=True)
            return None
        return Running(contender, at.url, child)

    def sample(self, running: Running, num_streams: int) -> Sample:
        """One turn: streams, then short whole replies."""
        settings = self.settings
        load = Load(running.url, MODEL, num_streams, ramp_s=settings.stream_s)
        figures, cpu_s, engine_cpu_s, tokens = self._window(
            running, load, settings.stream_s + 0.5, settings.measure_s
        )
        rss_bytes = running.usage().rss_bytes
        num_left = self._drained(1.0)
        self._drained(5.0)  # what is left must not weigh on the next
        short = Load(running.url, MODEL, 64, stream=False, max_tokens=8, ramp_s=0.2)
        whole, whole_cpu_s, _, _ = self._window(running, short, 0.7, 1.5)
        self._drained(5.0)
        return Sample(
            cpu_us_per_token=_per(cpu_s, tokens),
            cpu_us_per_request=_per(whole_cpu_s, whole["num_requests"]),
            rss_mib=rss_bytes / 2**20,
            ttft_p50_ms=figures["ttft_p50_ms"],
            ttft_p99_ms=figures["ttft_p99_ms"],
            itl_p50_ms=figures["itl_p50_ms"],
            itl_p99_ms=figures["itl_p99_ms"],
            tokens_per_s=tokens / figures["wall_s"],
            events_per_token=figures["num_events"] / tokens if tokens else math.nan,
            num_errors=int(figures["num_errors"] + whole["num_errors"]),
            num_left=num_left,
            engine_us_per_token=_per(engine_cpu_s, tokens),
            load_us_per_token=_per(figures["load_cpu_s"], tokens),
        )

    def _window(
        self, running: Running, load: Load, warm_up_s: float, measure_s: float
    ) -> tuple[dict[str, float], float, float, float]:
        """Runs the load; its figures, and CPU of router and engine and tokens between its marks."""
        figures, begin, end = run_apart(
            replace(load, warm_up_s=warm_up_s, measure_s=measure_s),
            lambda: (running.usage().cpu_s, self.engine.usage().cpu_s, self._tokens()),
        )
        return figures, end[0] - begin[0], end[1] - begin[1], end[2] - begin[2]

    def _metric(self, pattern: re.Pattern[bytes]) -> float:
        with urllib.request.urlopen(self.engine_url + "/metrics", timeout=10) as reply:
            found = pattern.search(reply.read())
        if found is None:
            raise RuntimeError("the engine's /metrics lacks a counter")
        return float(found[1])

    def _tokens(self) -> float:
        return self._metric(_GENERATED)

    def _drained(self, timeout_s: float) -> int:
        """Waits for the engine to have nothing running; what is left at the end of `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (left := self._metric(_RUNNING)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return int(left)


def _per(cpu_s: float, count: float) -> float:
    return 1e6 * cpu_s / count if count else math.nan


def _chat(url: str) -> bool:
    """One small request, retried while it is refused; whether the trace came apart."""
    message = {"role": "user", "content": 'script:{"think": "hm", "answer": "yes"}'}
    body = {"model": MODEL, "messages": [message], "max_tokens": 64}
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), headers
    )
    for attempt in range(50):
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                said = json.load(reply)["choices"][0]["message"]
            return bool(said.get("reasoning") or said.get("reasoning_content"))
        except OSError as error:
            if attempt == 49:
                text = error.read().decode() if isinstance(error, urllib.error.HTTPError) else error
                raise NotReadyError(f"refuses requests: {text}"[:400]) from error
            time.sleep(0.1)
    return False


def summarise(samples: dict[str, list[Sample]]) -> dict[str, dict[str, float]]:
    """Per contender: medians over rounds, differences to `direct` and ratios to the peer."""

    def column(name: str, field: str) -> list[float]:
        return [getattr(sample, field) for sample in samples[name]]

    summary: dict[str, dict[str, float]] = {}
    for name in samples:
        row = {field: median_of(column(name, field)) for field in Sample.__dataclass_fields__}
        row["num_errors"] = sum(column(name, "num_errors"))
        row["num_left"] = max(column(name, "num_left"))
        if DIRECT in samples and name != DIRECT:
            for p in ("p50", "p99"):
                field = f"ttft_{p}_ms"
                row["added_" + field] = paired_difference(
                    column(name, field), column(DIRECT, field)
                )
        if PEER in samples and name != DIRECT:
            for each in ("token", "request"):
                field = f"cpu_us_per_{each}"
                row[f"{each}_ratio"] = paired_ratio(column(name, field), column(PEER, field))
        summary[name] = row
    return summary


_COLUMNS = (
    ("CPU µs/token", "cpu_us_per_token", ".1f"),
    ("ratio", "token_ratio", ".2f"),
    ("added TTFT p50 ms", "added_ttft_p50_ms", "+.1f"),
    ("p99", "added_ttft_p99_ms", "+.1f"),
    ("ITL p50 ms", "itl_p50_ms", ".1f"),
    ("p99", "itl_p99_ms", ".1f"),
    ("CPU µs/request", "cpu_us_per_request", ".0f"),
    ("ratio", "request_ratio", ".2f"),
    ("RSS MiB", "rss_mib", ".0f"),
    ("tokens/s", "tokens_per_s", ".0f"),
    ("errors", "num_errors", ".0f"),
    ("left", "num_left", ".0f"),
)


def render(summary: dict[str, dict[str, float]], splits: dict[str, bool]) -> str:
    rows = [["", *(title for title, _, _ in _COLUMNS), "splits", "with the stream"]]
    for name, row in summary.items():
        cells = [
            "-" if math.isnan(value := row.get(key, math.nan)) else format(value, form)
            for _, key, form in _COLUMNS
        ]
        if name == DIRECT:
            cells[0] = cells[6] = cells[8] = "-"
        rows.append([name, *cells, "yes" if splits[name] else "no", CONTENDERS[name].reads])
    return table(rows)


def judge(summary: dict[str, dict[str, float]], settings: Settings) -> list[str]:
    """What exceeds its limit, in words."""
    ours, peer = summary.get(OURS), summary.get(PEER)
    if ours is None or peer is None or DIRECT not in summary:
        return [f"nothing to compare: {DIRECT}, {OURS} and {PEER} must all have run"]
    limits = (
        ("errors", ours["num_errors"], 0.0),
        ("times the CPU per token", ours["token_ratio"], settings.max_token_ratio),
        ("times the CPU per request", ours["request_ratio"], settings.max_request_ratio),
        (
            "ms of added TTFT p50",
            ours["added_ttft_p50_ms"],
            peer["added_ttft_p50_ms"] + settings.max_ttft_p50_ms,
        ),
        ("ms of TTFT p99", ours["ttft_p99_ms"], peer["ttft_p99_ms"] + settings.max_ttft_p99_ms),
        ("ms of ITL p99", ours["itl_p99_ms"], peer["itl_p99_ms"] + settings.max_itl_p99_ms),
    )
    return [
        f"{value:.2f} {what}; the limit is {limit:.2f}"
        for what, value, limit in limits
        if not value <= limit
    ]


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed in short and kept in full."""

    benchmark: str
    settings: Settings
    machine: dict[str, object]
    splits: dict[str, bool]
    summary: dict[int, dict[str, dict[str, float]]]  # by the number of streams
    rounds: dict[int, dict[str, list[Sample]]]


def measure(settings: Settings) -> Report:
    """Runs the whole comparison."""
    names = settings.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise SystemExit(f"no contender {unknown[0]!r}; there are: {', '.join(CONTENDERS)}")
    rounds = {}
    with ExitStack() as stack:
        bench = Bench(settings, stack)
        up = [running for name in names if (running := bench.start(CONTENDERS[name]))]
        splits = {running.contender.name: _chat(running.url) for running in up}
        for num_streams in settings.stream_counts:
            rounds[num_streams] = _rounds(bench, up, num_streams)
    summary = {num_streams: summarise(samples) for num_streams, samples in rounds.items()}
    for num_streams, rows in summary.items():
        print(f"\n{_heading(settings, num_streams, rows)}\n\n{render(rows, splits)}")
    print(flush=True)
    machine = msgspec.to_builtins(Machine.here())
    return Report("router", settings, machine, splits, summary, rounds)


def _rounds(bench: Bench, up: Sequence[Running], num_streams: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {running.contender.name: [] for running in up}
    for number in range(bench.settings.rounds):
        for running in up:
            name = running.contender.name
            sample = bench.sample(running, num_streams)
            samples[name].append(sample)
            print(
                f"{num_streams} streams, round {number + 1}/{bench.settings.rounds}  {name:14}"
                f" {sample.cpu_us_per_token:7.1f} µs/token  TTFT {sample.ttft_p50_ms:.1f} ms",
                flush=True,
            )
    return samples


def _heading(settings: Settings, num_streams: int, rows: dict[str, dict[str, float]]) -> str:
    head = (
        f"{num_streams} streams, {settings.mode} engine, a step each {settings.step_ms:g} ms,"
        f" {settings.rounds} rounds of {settings.measure_s:g} s"
    )
    if DIRECT not in rows:
        return head
    engine, load = (rows[DIRECT][f"{who}_us_per_token"] for who in ("engine", "load"))
    return f"{head}; engine {engine:.0f} and load generator {load:.0f} µs of CPU per token"


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that every process is ended."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Settings(), "benchmarks.router_bench", __doc__)
    settings = Settings(**vars(parser.parse_args(argv)))
    os.chdir(ROOT)
    try:
        with _sigterm_as_exit():
            report = measure(settings)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = {key: without_nan(value) for key, value in asdict(report).items()}
    out.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    failures = [
        f"{num_streams} streams: {failure}"
        for num_streams, rows in report.summary.items()
        for failure in judge(rows, settings)
        if settings.check
    ]
    for failure in failures:
        print(f"check failed: {failure}")
    print(json.dumps({key: value for key, value in kept.items() if key != "rounds"}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
