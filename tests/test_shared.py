from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serve.shared import REQUESTS, RUNNING, Shared
from serve.worker import Worker
from tests.conftest import ROOT

WORKER = """
import asyncio, sys
from pathlib import Path
from serve.admission import Claim, Gate
from serve.shared import Shared
from serve.worker import Worker

async def main(directory, worker, others):
    shared = Shared(Worker(int(worker), 2, directory))
    counters = shared.counters("gate")
    gate = Gate(3, max_queued=100, queue_timeout_s=30, counters=counters)
    seen, holding = shared.counters("seen"), shared.counters("holding")

    async def run():
        async with gate.admit(Claim()):
            holding.add(0, 1)
            assert holding.total(0) <= 3, holding.total(0)
            await asyncio.sleep(0.002)
            holding.add(0, -1)
            seen.add(3, 1)

    print("up", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(run() for _ in range(40)))

asyncio.run(main(*sys.argv[1:]))
"""


def test_two_processes_keep_one_limit(tmp_path: Path) -> None:
    """Eighty generations through three slots: never four at once, all served, nothing left; who
    waits in one process gets what the other frees."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(index), "x"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "up\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    late = Shared(Worker(0, 2, str(tmp_path)))
    assert late.counters("seen").total(3) == 80
    assert late.counters("gate").total(RUNNING) == 0


def test_anyone_sees_what_every_worker_counts(tmp_path: Path) -> None:
    first, second = (Shared(Worker(index, 2, str(tmp_path))).counters("k") for index in range(2))
    first.add(REQUESTS, 5)
    second.add(REQUESTS, 7)
    assert first.total(REQUESTS) == second.total(REQUESTS) == 12
    assert (first.own(REQUESTS), second.own(REQUESTS)) == (5, 7)


def test_a_worker_that_starts_again_holds_nothing_but_keeps_its_counts(tmp_path: Path) -> None:
    """It was killed with two generations open; the other worker's stay."""
    dead, other = (Shared(Worker(index, 2, str(tmp_path))).counters("k") for index in range(2))
    dead.add(RUNNING, 2)
    dead.add(REQUESTS, 9)
    other.add(RUNNING, 1)
    again = Shared(Worker(0, 2, str(tmp_path))).counters("k")
    assert again.total(RUNNING) == other.total(RUNNING) == 1
    assert again.total(REQUESTS) == 9


def test_subjects_are_counted_apart(tmp_path: Path) -> None:
    for shared in (Shared(), Shared(Worker(0, 2, str(tmp_path)))):
        one, other = shared.counters("one"), shared.counters("other")
        one.add(RUNNING, 1)
        assert (one.total(RUNNING), other.total(RUNNING)) == (1, 0)
