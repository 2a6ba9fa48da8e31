"""Examples as child processes, and an engine whose replies are scripted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from benchmarks.stand_in import Options, StandInEngine
from tests.conftest import ROOT
from tests.support import RunningRouter, running_router

EXAMPLES = ROOT / "docs" / "examples"
SCRIPTS = sorted(it.name for it in EXAMPLES.iterdir() if it.suffix in (".py", ".sh"))
NOWHERE = "http://127.0.0.1:9/v1"
DIFF = (EXAMPLES / "change.diff").read_text()
LOG = (EXAMPLES / "service.log").read_text()


class Done(NamedTuple):
    status: int
    out: str
    err: str


async def example(name: str, *arguments: object, url: str = NOWHERE, stdin: str = "") -> Done:
    """Warnings of the script, and of the libraries that it uses, are errors."""
    command = ["bash"] if name.endswith(".sh") else [sys.executable, "-W", "error"]
    process = await asyncio.create_subprocess_exec(
        *command,
        str(EXAMPLES / name),
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"},
    )
    out, err = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, out.decode(), err.decode())


@contextlib.asynccontextmanager
async def scripted(**router: Any) -> AsyncIterator[tuple[StandInEngine, RunningRouter, str]]:
    """Says what `script(…)` in the message says. With the URL of the API."""
    async with (
        StandInEngine(Options(step_ms=0.2, prefill_ms=0)) as engine,
        running_router(engine.url, **router) as running,
    ):
        yield engine, running, f"{running.url}/v1"


def script(answer: str, think: str = "hm") -> str:
    return "script:" + json.dumps({"think": think, "answer": answer})
