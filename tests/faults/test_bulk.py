"""A large bulk job that is killed half-way and run again: every line is answered exactly once."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import R1_SERVE, ROOT
from tests.faults.support import router_over, stand_in_process
from tests.stack import wait_until

NUM_LINES = 20_000
QUICK = ("--prefill-ms", "0", "--think-tokens", "3", "--answer-tokens", "3")


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_job_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM says how to go on; SIGKILL says nothing."""
    total, step_ms = (NUM_LINES, "0.2") if number == signal.SIGKILL else (2000, "20")
    requests, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with requests.open("w") as file:
        for n in range(total):
            body = {"messages": [{"role": "user", "content": f"{n}+1?"}]}
            line = {"custom_id": f"r{n}", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    with stand_in_process("--step-ms", step_ms, *QUICK) as engine, router_over(engine) as (url, _):
        command = [*R1_SERVE, "batch", str(requests), str(answers), "--url", url]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
            assert wait_until(lambda: num_lines(answers) >= total // 2, 120)
            first.send_signal(number)
            told = first.communicate()[1]
        assert first.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert ("the same command goes on" in told) == (number == signal.SIGTERM)
        half = num_lines(answers)
        assert total // 2 <= half < total
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"{total} of {total} requests answered\n" in done.stderr
    with answers.open() as file:
        found = [json.loads(line) for line in file]
    assert Counter(it["custom_id"] for it in found) == Counter(f"r{n}" for n in range(total))
    assert {it["response"]["status_code"] for it in found} == {200}
