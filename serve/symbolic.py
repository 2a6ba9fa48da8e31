"""Asks math-verify (the extra `answers`) whether expressions are equal, in a process of its own.

    python -P serve/symbolic.py     # that process: a line of JSON in, a line of JSON out

SymPy can compute for minutes on a short hostile text, in C code too, and takes what memory there
is; math-verify's own limits are signals, for a main thread only. So it runs in one child, started
when first asked, bounded in memory, and killed when it exceeds its time. Whatever goes wrong, the
answers count as different.

Ask about pairs that `serve.equivalence.is_open`: math-verify would also equate 50% with 50. The
router's process never imports SymPy, and the child imports nothing of this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-P", "-W", "ignore", str(Path(__file__)))
READY = b"ready\n"
START_TIMEOUT_S = 60.0
"""SymPy takes 0.7 s to import from a warm disk, several from a cold one."""
TIMEOUT_S = 2.0
"""Of 30 pairs such as `(x+1)^2` and `x^2+2x+1`, the slowest took 0.5 s (math-verify 0.9)."""
MAX_QUESTION_S = 30
"""The child ends itself then: the router may have gone, killed, without ending it."""
MAX_MEMORY_BYTES = 2 << 30
NUM_DIGITS = 50
"""How many digits are compared where there is no proof. math-verify's default, 6, would equate π
and 3.141593, which are different answers of one vote."""


def is_installed() -> bool:
    """Whether math-verify can be imported; doesn't import it."""
    return importlib.util.find_spec("math_verify") is not None


class SymbolicChecker:
    """One child that answers one question after another. `close` it at the end."""

    def __init__(
        self, command: Sequence[str] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`timeout_s`: how long one comparison may take, once its turn has come. `command` runs
        instead of math-verify's child, without which every answer is False."""
        self._command = command or WORKER
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._is_usable = command is not None or is_installed()

    async def same(self, a: str, b: str) -> bool:
        """Whether two LaTeX expressions are equal; False also where that can't be told in time.

        Questions wait for their turn, as long as it takes. Cancelling one whose turn has come ends
        the child.
        """
        async with self._turn:
            if not self._is_usable:
                return False
            try:
                process = self._process or await self._start()
                async with asyncio.timeout(self._timeout_s):
                    return bool(json.loads(await _ask(process, json.dumps([a, b]))))
            except (OSError, ValueError):  # TimeoutError is an OSError
                await self._stop()
                return False
            except asyncio.CancelledError:
                await self._stop()
                raise

    async def close(self) -> None:
        """Ends the child. What is being asked, or asked later, is answered with False."""
        self._is_usable = False
        self._kill()
        async with self._turn:
            await self._stop()

    async def _start(self) -> Process:
        """Raises `OSError`. A child that doesn't get ready is never tried again."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        if not self._is_usable:
            raise OSError("closed while it started")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                is_ready = await _ask(process, "") == READY
        except TimeoutError:
            is_ready = False
        if not is_ready:
            if self._is_usable:
                log.warning("math-verify does not start: answers are compared without algebra.")
            self._is_usable = False
            raise OSError("did not start")
        return process

    def _kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _stop(self) -> None:
        self._kill()
        process, self._process = self._process, None
        if process:
            await process.communicate()  # closes its pipes and reaps it


async def _ask(process: Process, question: str) -> bytes:
    """The line that answers a line; nothing when the child has ended."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the child has no pipes")
    process.stdin.write(question.encode() + b"\n")
    await process.stdin.drain()
    return await process.stdout.readline()


def main() -> None:
    """The child: answers until its standard input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may get among the replies
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    os.nice(10)
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    reading = LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, malformed_operators=True, nits=True, boxed="all", units=False
        ),
    )

    def equal(a: str, b: str) -> bool:
        left, right = (
            parse(f"\\boxed{{{text}}}", [reading], parsing_timeout=None) for text in (a, b)
        )
        return any(
            verify(
                *pair,
                float_rounding=NUM_DIGITS,
                numeric_precision=NUM_DIGITS,
                timeout_seconds=None,
            )
            for pair in ((left, right), (right, left))  # it isn't symmetric
        )

    for line in sys.stdin:
        signal.alarm(MAX_QUESTION_S)
        reply = equal(*json.loads(line)) if line.strip() else None
        signal.alarm(0)
        replies.write(READY.decode() if reply is None else f"{json.dumps(reply)}\n")
        replies.flush()


if __name__ == "__main__":
    main()
