"""`r1-serve bench` as its user runs it, over the stand-in engine."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from benchmarks.loadtest.drive import Span
from benchmarks.loadtest.load import Load
from benchmarks.loadtest.store import Point, Repeat, Run, read_run
from benchmarks.loadtest.workload import load_workload
from benchmarks.machine import Machine
from benchmarks.slo import Slo
from benchmarks.stand_in import Options, StandInEngine
from serve.cli import app
from tests.conftest import R1_SERVE
from tests.support import eventually

QUICK = ("--seconds", "0.5", "--warm-up", "0.2", "--patience", "5")


async def bench(*arguments: str) -> tuple[int, str]:
    """Exit status and everything it said."""
    process = await started(*arguments)
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def started(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *R1_SERVE,
        "bench",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_a_test_ends_with_a_table_a_page_and_pictures(tmp_path: Path) -> None:
    async with StandInEngine(Options(step_ms=5, think_tokens=20, answer_tokens=8)) as engine:
        arguments = ("--concurrency", "1,4", "--repeats", "2", "--out", str(tmp_path / "a"), *QUICK)
        status, said = await bench("run", "--url", engine.url, *arguments)
    assert status == 0, said
    assert "output tokens/s" in said
    assert "load within the limits was 4 at a time" in " ".join(said.split())
    run = read_run(tmp_path / "a")
    assert [point.load.value for point in run.points] == [1, 4]
    assert [len(point.repeats) for point in run.points] == [2, 2]
    assert run.points[1].estimates()["answered"].mean == 1
    lines = (tmp_path / "a" / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["load"] for line in lines} == {"1 at a time", "4 at a time"}
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "http://www.w3.org" in page
    assert "src=" not in page
    pictures = sorted(path.name for path in (tmp_path / "a").glob("*.png"))
    assert pictures == [
        "goodput.png", "latencies.png", "latency-throughput.png", "lengths.png", "timeline.png",
    ]  # fmt: skip


def test_compare_exits_with_1_where_something_got_worse(tmp_path: Path) -> None:
    for name, factor in (("a", 1), ("b", 3)):
        repeats = [Repeat({"e2e_p50_ms": 100.0 * factor + number}) for number in range(3)]
        points = [Point(Load("concurrency", 4.0), repeats)]
        parts = (load_workload("demo"), Slo(), Span(), Machine.here())
        run = Run(name, "now", "cmd", "http://e", "m", *parts, points=points)
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(run))
    same, slower = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    result = CliRunner().invoke(app, ["bench", "compare", same, same])
    assert result.exit_code == 0, result.output
    assert "worse" not in result.output
    result = CliRunner().invoke(app, ["bench", "compare", same, slower])
    assert result.exit_code == 1
    assert "worse" in result.output


async def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    async with StandInEngine(Options(step_ms=5, think_tokens=20, answer_tokens=8)) as engine:
        out = ("--out", str(tmp_path), "--seconds", "300", "--warm-up", "0")
        process = await started("run", "--url", engine.url, "--rates", "20", *out)
        await eventually(lambda: engine.counters.by_reason["stop"] >= 10, 30)
        process.send_signal(signal.SIGINT)
        said, _ = await process.communicate()
        await eventually(lambda: engine.num_running == 0)
    assert process.returncode == 130, said
    run = read_run(tmp_path)
    assert run.interrupted
    (repeat,) = run.points[0].repeats
    assert repeat.interrupted
    assert repeat.figures["requests_per_s"] > 1
    assert "was interrupted" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rates", "1,x"), "--rates takes numbers"),
        (("--rates", "0"), "must be above 0"),
        (("--rates", "1", "--concurrency", "1"), "give one of"),
        (("--search", "users"), "must be `rate` or `concurrency`"),
        (("--workload", "chats"), "no workload 'chats'"),
        (("--url", "http://127.0.0.1:9"), "check --url"),
        (("--url", "http://me:secret@127.0.0.1:9"), "R1_API_KEY"),
        (("--trace", "none.jsonl", "--url", "http://127.0.0.1:9"), "none.jsonl"),
    ],
)
def test_what_can_not_be_done_is_told(arguments: tuple[str, ...], message: str) -> None:
    """Before anything is started."""
    result = CliRunner().invoke(app, ["bench", "run", *arguments])
    assert result.exit_code == 2
    assert message in result.output
