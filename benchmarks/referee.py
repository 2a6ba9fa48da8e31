"""The referee: another load generator, AIPerf, measures an endpoint, and our arithmetic is held
against its own on the same run.

AIPerf writes down when each chunk of each reply came. From these times `loadtest.figures` makes
our figures; AIPerf makes its own in its own way. Where one differs by more than 3 % the exit
status is 1. With `--rounds N` our driver and AIPerf then put the same load on the endpoint in
turns. That is shown and not judged: two runs are never the same, and on a machine that the engine
shares, a client's own CPU time is part of what it measures.

Replies should be 50 tokens long or more. AIPerf's request latency ends with the last text and ours
with the last byte, one step later: of a short reply that alone is more than 3 %.

    python -m benchmarks.referee --url http://127.0.0.1:8000 --model r1-demo

Where AIPerf means something else by a name: docs/decisions/0015-load-generator.md. Its files are
kept in `bench-results/referee/`.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.loadtest.client import TEXT, Chunk, Endpoint
from benchmarks.loadtest.drive import Driver, Span, Step
from benchmarks.loadtest.figures import Figures, Seen, figures_of
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.observe import Observer
from benchmarks.loadtest.record import Record
from benchmarks.loadtest.run import summed_up, wait_idle
from benchmarks.loadtest.workload import Conversations, load_workload
from benchmarks.options import parser_for
from benchmarks.peers import ROOT, Contender, InstallError, install
from benchmarks.slo import Slo
from benchmarks.stats import median_of, table

AIPERF = Contender("aiperf", "-", "aiperf==0.13.0")
FOLDER = ROOT / "bench-results" / "referee"
TIMEOUT_S = 1800.0
SLO = Slo()

_PERCENTILES = {
    "ttft": "time_to_first_token",
    "ttfa": "time_to_first_output_token",
    "tpot": "inter_token_latency",
    "itl": "inter_chunk_latency",
    "e2e": "request_latency",
}
THEIRS: dict[str, tuple[str, str]] = {
    **{
        f"{ours}_p{percent}_ms": (theirs, f"p{percent}")
        for ours, theirs in _PERCENTILES.items()
        for percent in (50, 90, 99)
    },
    "requests_per_s": ("request_throughput", "avg"),
    "output_tokens_per_s": ("output_token_throughput", "avg"),
    "goodput_per_s": ("goodput", "avg"),
    "prompt_tokens": ("input_sequence_length", "avg"),
    "reasoning_tokens": ("reasoning_token_count", "avg"),
}
"""Our figures, and under which tag and statistic AIPerf has the same one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`requests` are measured, as many as `concurrency` go before them as warm-up."""

    url: str = "http://127.0.0.1:8000"
    model: str = "r1-demo"
    workload: str = "demo"
    concurrency: int = 16
    requests: int = 300
    rounds: int = 0
    tolerance_percent: float = 3.0


# --- what AIPerf wrote --------------------------------------------------------------------------


class Packet(msgspec.Struct):
    name: str
    value: str | None = None


class Response(msgspec.Struct):
    """One event, and when the read that completed it returned."""

    perf_ns: int
    packets: list[Packet] = []


class Metadata(msgspec.Struct):
    phase_kind: str = "profiling"


class Line(msgspec.Struct):
    """Of `profile_export_raw.jsonl`: one request."""

    metadata: Metadata
    start_perf_ns: int
    status: int | None = None
    responses: list[Response] = []
    error: msgspec.Raw = msgspec.Raw(b"null")


def read_lines(path: Path) -> list[Line]:
    """The requests that were measured, without those of the warm-up."""
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as file:
        lines = [decode(line) for line in file]
    return [line for line in lines if line.metadata.phase_kind == "profiling"]


def read_theirs(path: Path) -> dict[str, float]:
    """AIPerf's own figures, by our names."""
    summary = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    found = {}
    for name, (tag, statistic) in THEIRS.items():
        metric = summary.get(tag)
        value = metric.get(statistic) if isinstance(metric, dict) else None
        if isinstance(value, int | float):
            found[name] = float(value)
    return found


# --- the same run by our definitions ------------------------------------------------------------


def seen_of(lines: Sequence[Line]) -> Seen:
    """The whole run as one measured window, from the first request to the last byte."""
    first_ns = min(line.start_perf_ns for line in lines)
    records, gaps_s = list[Record](), list[float]()
    for line in lines:
        record = Record("aiperf", (line.start_perf_ns - first_ns) / 1e9, status=line.status or 0)
        record.sent_at_s = record.due_at_s
        if bytes(line.error) != b"null":
            record.error = bytes(line.error).decode()
        gaps_s += _read_reply(line, first_ns, record)
        records.append(record)
    end_s = max((it.ended_at_s for it in records if it.ended_at_s is not None), default=0.0)
    num_events = sum(record.num_events for record in records)
    after_s = math.nextafter(end_s, math.inf)  # a window's end is not part of it
    return Seen(records, records, 0.0, after_s, num_events, gaps_s)


def _read_reply(line: Line, first_ns: int, record: Record) -> Iterator[float]:
    """Fills in the record; the gaps between the reply's chunks, from the first with text on."""
    last_s: float | None = None
    for at_s, data in _events(line, first_ns):
        if data == "[DONE]":
            record.done, record.ended_at_s = True, at_s
            return
        record.num_events += 1
        if last_s is not None:
            yield at_s - last_s
        if last_s is not None or TEXT.search(data.encode()):
            last_s = at_s
            record.first_at_s = at_s if record.first_at_s is None else record.first_at_s
        _note(data, at_s, record)


def _events(line: Line, first_ns: int) -> Iterator[tuple[float, str]]:
    for response in line.responses:
        for packet in response.packets:
            if packet.name == "data" and packet.value:
                yield (response.perf_ns - first_ns) / 1e9, packet.value


def _note(data: str, at_s: float, record: Record) -> None:
    chunk = msgspec.json.decode(data, type=Chunk)
    for choice in chunk.choices:
        record.finish_reason = choice.finish_reason or record.finish_reason
        if choice.delta and choice.delta.content and record.answer_at_s is None:
            record.answer_at_s, record.has_content = at_s, True
    if chunk.usage is not None:
        details = chunk.usage.completion_tokens_details
        record.prompt_tokens = chunk.usage.prompt_tokens
        record.output_tokens = chunk.usage.completion_tokens or 0
        record.reasoning_tokens = (details and details.reasoning_tokens) or 0


# --- the verdict --------------------------------------------------------------------------------


def difference_percent(ours: float, theirs: float) -> float:
    """Of theirs; infinite where they have nothing and we have something."""
    if ours == theirs:
        return 0.0
    return 100 * (ours - theirs) / theirs if theirs else math.inf


def differences(ours: Figures, theirs: Figures) -> dict[str, float]:
    """In per cent, of the figures that both have."""
    return {
        name: difference_percent(ours[name], theirs[name])
        for name in THEIRS
        if name in ours and name in theirs
    }


def missing(ours: Figures, theirs: Figures) -> list[str]:
    """What one of the two has not: no difference can be told, and that is told."""
    return [name for name in THEIRS if (name in ours) != (name in theirs)]


def side_by_side(ours: Figures, theirs: Figures) -> str:
    rows = [["figure", "ours", "AIPerf", "difference"]]
    for name, percent in differences(ours, theirs).items():
        rows.append([name, f"{ours[name]:,.2f}", f"{theirs[name]:,.2f}", f"{percent:+.2f} %"])
    return table(rows)


def rounds_table(rounds: Sequence[tuple[Figures, Figures]]) -> str:
    """Medians over rounds of (ours, theirs), and the difference within a round: median, range."""
    found = [differences(ours, theirs) for ours, theirs in rounds]
    rows = [["figure", "ours", "AIPerf", "difference", "least", "most"]]
    for name in THEIRS:
        if all(name in percents for percents in found):
            percents = [it[name] for it in found]
            ours, theirs = (median_of([pair[side][name] for pair in rounds]) for side in (0, 1))
            spread = [median_of(percents), min(percents), max(percents)]
            cells = [f"{ours:,.2f}", f"{theirs:,.2f}", *(f"{it:+.1f} %" for it in spread)]
            rows.append([name, *cells])
    return table(rows)


# --- putting the load on ------------------------------------------------------------------------


def bodies(settings: Settings) -> Iterator[Mapping[str, object]]:
    """What our driver would ask, as whole request bodies: first turns only."""
    conversations = Conversations(load_workload(settings.workload))
    for _ in range(settings.requests):
        conversation = conversations.next()
        turn = conversation.turns[0]
        system = [{"role": "system", "content": conversation.system}] if conversation.system else []
        yield {
            "model": settings.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [*system, {"role": "user", "content": turn.task.prompt}],
            **turn.fields,
        }


def aiperf_argv(settings: Settings, python: Path, folder: Path) -> list[str]:
    """No model hub is asked: the tokenizer is a local one, and tokens are counted by the server."""
    options = {
        "model": settings.model,
        "url": settings.url,
        "endpoint-type": "chat",
        "input-file": str(folder / "bodies.jsonl"),
        "custom-dataset-type": "raw-payload",
        "dataset-sampling-strategy": "sequential",
        "tokenizer": str(ROOT / "demo_model" / "weights"),
        "concurrency": str(settings.concurrency),
        "request-count": str(settings.requests),
        "warmup-request-count": str(settings.concurrency),
        "goodput": f"time_to_first_token:{SLO.ttft_ms:g} inter_token_latency:{SLO.tpot_ms:g}",
        "export-level": "raw",
        "artifact-dir": str(folder),
        "ui-type": "none",
    }
    flags = ["--streaming", "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"]
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(python.parent / "aiperf"), "profile", *named, *flags]


def drive_aiperf(settings: Settings, python: Path) -> tuple[Seen, dict[str, float]]:
    """One run: what it saw, and its own figures. Raises `RuntimeError` where it failed."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    lines = (msgspec.json.encode(body) for body in bodies(settings))
    (FOLDER / "bodies.jsonl").write_bytes(b"\n".join(lines))
    try:
        with (FOLDER / "aiperf.log").open("wb") as log:
            argv = aiperf_argv(settings, python, FOLDER)
            subprocess.run(argv, stdout=log, stderr=log, timeout=TIMEOUT_S, check=True)
        measured = read_lines(FOLDER / "profile_export_raw.jsonl")
        return seen_of(measured), read_theirs(FOLDER / "profile_export_aiperf.json")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"AIPerf left no figures; see {FOLDER / 'aiperf.log'}") from error


def drive_ours(settings: Settings, measure_s: float) -> Figures:
    """Our own driver at the same load for as long."""
    endpoint = Endpoint(settings.url, settings.model)
    step = Step(Load("concurrency", settings.concurrency), Span(measure_s=measure_s))
    driver = Driver(endpoint, Conversations(load_workload(settings.workload)))

    async def run() -> None:
        await driver.run(step)
        await wait_idle(endpoint)

    asyncio.run(run())
    return summed_up(step, Observer(endpoint, step.window.clock), SLO).figures


def in_turns(settings: Settings, python: Path, measure_s: float) -> list[tuple[Figures, Figures]]:
    """Rounds of (ours, theirs), each with its own arithmetic; who begins takes turns too."""
    rounds = list[tuple[Figures, Figures]]()
    for number in range(settings.rounds):
        before = drive_ours(settings, measure_s) if number % 2 else None
        _, theirs = drive_aiperf(settings, python)
        rounds.append((before or drive_ours(settings, measure_s), theirs))
    return rounds


def verdict(ours: Figures, theirs: Figures, tolerance_percent: float) -> Iterable[str]:
    """What the two don't agree on."""
    for name, percent in differences(ours, theirs).items():
        if abs(percent) > tolerance_percent:
            yield f"{name} differs by {percent:+.1f} %"


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_for(Settings(), "benchmarks.referee", __doc__)
    settings = Settings(**vars(parser.parse_args(argv)))
    try:
        python = install(AIPERF)
        seen, theirs = drive_aiperf(settings, python)
    except (InstallError, RuntimeError) as error:
        sys.exit(str(error))
    ours = figures_of(seen, SLO)
    print(f"{len(seen.records)} requests of one run of AIPerf, by our arithmetic and by its own\n")
    print(side_by_side(ours, theirs))
    for name in missing(ours, theirs):
        print(f"{name}: only {'ours' if name in ours else 'AIPerf'} has it")
    if settings.rounds:
        print(f"\nour driver and AIPerf in turns, {settings.rounds} rounds\n")
        print(rounds_table(in_turns(settings, python, seen.span_s)))
    failures = list(verdict(ours, theirs, settings.tolerance_percent))
    print("\n" + ("\n".join(failures) or f"all within {settings.tolerance_percent:g} %"))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
