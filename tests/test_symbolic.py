"""The child that does algebra: its life with scripts in its place, its answers with math-verify."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serve.symbolic import SymbolicChecker, is_installed

CHILD = """
import json, os, sys, time
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
for line in sys.stdin:
    if not line.strip():
        print("ready", flush=True)
        continue
    a, b = json.loads(line)
    if a == "hang":
        time.sleep(600)
    if a == "crash":
        os._exit(1)
    print("nonsense" if a == "nonsense" else json.dumps(a == b), flush=True)
"""
"""Compares as text, and can be asked to misbehave."""

Make = Callable[..., SymbolicChecker]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A file that gets the id of each child."""
    return tmp_path / "started"


@pytest.fixture
async def make(started: Path) -> AsyncIterator[Make]:
    """Checkers with a script for the child; closed at the end, which leaves no process."""
    checkers: list[SymbolicChecker] = []

    def checker(script: str = CHILD, *, timeout_s: float = 30) -> SymbolicChecker:
        command = [sys.executable, "-I", "-c", script, str(started)]
        checkers.append(SymbolicChecker(command, timeout_s=timeout_s))
        return checkers[-1]

    yield checker
    for checker_ in checkers:
        await checker_.close()
    assert not [pid for pid in children(started) if is_running(pid)]


def children(started: Path) -> list[int]:
    return [int(line) for line in started.read_text().split()] if started.exists() else []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_one_child_answers_all_questions(make: Make, started: Path) -> None:
    """It starts with the first one; questions asked at once wait for their turn."""
    checker = make()
    assert not children(started)
    asked = [checker.same("1", "1"), checker.same("1", "2"), checker.same("\ud800é\n", "\ud800é\n")]
    assert await asyncio.gather(*asked) == [True, False, True]
    assert len(children(started)) == 1


@pytest.mark.parametrize("misdeed", ["hang", "crash", "nonsense"])
async def test_after_a_misdeed_another_child_goes_on(
    make: Make, started: Path, misdeed: str
) -> None:
    """The answers in question count as different, and the first child is gone."""
    checker = make(timeout_s=2 if misdeed == "hang" else 30)
    assert await checker.same("1", "1")
    assert not await checker.same(misdeed, misdeed)
    assert await checker.same("1", "1")
    first, second = children(started)
    assert not is_running(first)
    assert is_running(second)


async def test_cancelling_ends_the_child_that_computes(make: Make, started: Path) -> None:
    """So that its late reply can't be taken for the next one's."""
    checker = make()
    assert await checker.same("1", "1")
    asking = asyncio.create_task(checker.same("hang", "1"))
    waiting = asyncio.create_task(checker.same("2", "2"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await waiting
    assert len(children(started)) == 2


async def test_closing_answers_what_is_being_asked_with_false(make: Make, started: Path) -> None:
    """And what is asked later, for which nothing starts."""
    checker = make()
    assert await checker.same("1", "1")
    asking = asyncio.create_task(checker.same("hang", "hang"))
    await asyncio.sleep(0)
    await checker.close()
    assert not await asking
    assert not await checker.same("1", "1")
    assert len(children(started)) == 1


async def test_closing_while_it_starts_leaves_no_child(make: Make, started: Path) -> None:
    """The fixture looks."""
    checker = make()
    asking = asyncio.create_task(checker.same("1", "1"))
    await asyncio.sleep(0)
    await checker.close()
    assert not await asking


async def test_a_child_that_does_not_start_is_not_tried_again(
    make: Make, started: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so once; every answer is False."""
    checker = make("import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()} '); sys.exit(1)")
    assert not await checker.same("1", "1")
    assert not await checker.same("1", "1")
    assert len(children(started)) == 1
    said = [record.levelname for record in caplog.records if record.name == "serve.symbolic"]
    assert said == ["WARNING"]


@pytest.mark.skipif(is_installed(), reason="math-verify is installed")
async def test_without_math_verify_nothing_is_equal_and_nothing_starts() -> None:
    """The extra is optional."""
    assert not await SymbolicChecker().same("1", "1")


def test_importing_it_does_not_import_sympy() -> None:
    """Not even looking whether math-verify is there."""
    code = "import sys, serve.symbolic as s; s.is_installed(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert not {b"sympy", b"math_verify"} & set(loaded.split())


EQUAL = [
    (r"\sqrt{16}", "4"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ("x^{2}+2x+1", "(x+1)^{2}"),
    ("x>3", r"(3,\infty)"),
    ("2^{10}", "1024"),
    ("5!", "120"),
    ("x=5", "5"),
    ("y=2x+1", "2x-y+1=0"),
    (r"\{1,\sqrt{4}\}", r"\{1,2\}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
]
DIFFERENT = [
    ("x=5", "y=5"),
    ("2m", "2"),
    (r"\pi", "3.14159265358979"),
    (r"\sqrt{2}+10^{-20}", r"\sqrt{2}"),
    ("x^{2}", "y^{2}"),
    ("(1,2)", "(2,1)"),
    ("", "1"),
    ("\ud800", "1"),
]


@pytest.mark.skipif(not is_installed(), reason="needs math-verify: the extra `answers`")
async def test_math_verify_finds_equals_and_no_others() -> None:
    """Whichever comes first. Equal is what is proved so, or has 50 equal digits."""
    checker = SymbolicChecker(timeout_s=20)
    try:
        for a, b in [*DIFFERENT, *EQUAL]:
            assert await checker.same(a, b) == await checker.same(b, a) == ((a, b) in EQUAL), (a, b)
    finally:
        await checker.close()


@pytest.mark.skipif(not is_installed(), reason="needs math-verify: the extra `answers`")
async def test_math_verify_gives_up_what_would_take_for_ever() -> None:
    """It counts as different."""
    checker = SymbolicChecker(timeout_s=4)
    try:
        assert not await checker.same("9^{9^{9^{9}}}", "1")
    finally:
        await checker.close()
