"""Tests of `r1-serve plan`'s options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.planner.calibration import Calibration, write_calibration
from benchmarks.planner.command import plan_command
from benchmarks.planner.engine_sim import Limits, StepTimes

FAST = ["--think", "50", "--answer", "20"]


def run(*args: str):
    app = typer.Typer()
    app.command()(plan_command)
    return CliRunner().invoke(app, list(args))


def test_it_says_how_many_replicas():
    result = run("--users", "20", *FAST)
    assert result.exit_code == 0
    assert "20 users of DeepSeek-R1-Distill-Qwen-1.5B on L4: 1 replica." in result.output


def test_json_has_the_same():
    made = json.loads(run("--rate", "2", "--gpu", "h100", "--json", *FAST).output)
    assert made["num_replicas"] == 1
    assert made["forecast"]["ttft_s"]["p50"] > 0


def test_step_times_that_were_measured_are_taken(tmp_path: Path):
    path = tmp_path / "step-times.json"
    times = StepTimes(((1, 1.0),))
    write_calibration(path, Calibration(step_times=times, limits=Limits(4, 2048, 40_000)))
    options = ("--step-times", str(path), "--slo-tpot-ms", "2000", "--slo-ttft-ms", "3000")
    made = json.loads(run("--users", "1", "--json", *options, *FAST).output)
    assert made["forecast"]["tpot_s"]["p50"] == pytest.approx(1.0)
    fewer = json.loads(
        run("--users", "50", "--max-num-seqs", "2", "--json", *options, *FAST).output
    )
    assert fewer["limit"] == "max_num_seqs"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give either --users"),
        (["--users", "2", "--rate", "1"], "give either --users"),
        (["--users", "0"], "--users must be 1 or more, got 0"),
        (["--rate", "0"], "--rate must be more than 0, got 0"),
        (["--users", "2", "--pause", "-1"], "--pause must be 0 or more"),
        (["--users", "2", "--prompt", "0"], "--prompt must be 1 or more"),
        (["--users", "2", "--think", "0", "--answer", "0"], "one token at least"),
        (["--users", "2", "--slo-ttft-ms", "0"], "--slo-ttft-ms must be more than 0"),
        (["--users", "2", "--share", "1.5"], "--share must be more than 0 and at most 1"),
        (["--users", "2", "--gpu", "L5"], "there are: T4, L4"),
        (["--users", "2", "--kv-dtype", "int4"], "--kv-dtype must be auto or fp8"),
        (["--users", "2", "--context", "9000000"], "more than the model's 131072"),
        (["--users", "2", "--gpu", "T4", "--context", "131072", "--max-num-seqs", "4500"], "fit"),
        (["--users", "2", "--max-num-seqs", "20000"], "leave no memory for KV"),
        (["--users", "2", "--prompt", "40000"], "--prompt 40000 must be less than --context 32768"),
        (["--users", "2", "--model", "/nowhere"], "--model: /nowhere/config.json can't be read"),
        (["--users", "2", "--step-times", "/nowhere"], "--step-times: /nowhere can't be read"),
    ],
)
def test_what_is_wrong_is_told_with_the_option(options: list[str], words: str):
    result = run(*options)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_file_that_is_no_calibration_is_told(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text('{"step_times": {"by_running": "soon"}}')
    assert "is not a calibration" in run("--users", "2", "--step-times", str(path)).output


def test_it_runs_where_only_the_router_is_installed():
    code = (
        "import sys, benchmarks.planner.command as c;"
        "c.planned(c.Options(users=1, think=5, answer=5));"
        "heavy = {'numpy', 'torch', 'vllm', 'aiohttp', 'matplotlib'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
