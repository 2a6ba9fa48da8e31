"""`r1-serve batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.commands import clear_errors, run_loop

if TYPE_CHECKING:
    from serve.batch_files import Job

SHOW_INTERVAL_S = 0.5
PLAIN_INTERVAL_S = 10.0


def batch(
    requests: Annotated[
        Path, typer.Argument(help="A request per line, in the form of OpenAI's Batch API.")
    ],
    answers: Annotated[
        Path, typer.Argument(help="Gets an answer per line, in the order in which they come.")
    ],
    url: Annotated[
        str, typer.Option("--url", help="The endpoint: a running `r1-serve up` or `router`.")
    ] = "http://127.0.0.1:8000",
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests under way at once.")
    ] = 64,
) -> None:
    """Answer a file of requests, behind interactive ones. Stopped, the same command goes on.

    The endpoint's key, if it wants one, is read from R1_API_KEY.
    """
    from serve.batch import Batch, Endpoint
    from serve.batch_files import opened
    from serve.discovery import engine_url

    with clear_errors():
        endpoint = Endpoint(engine_url(url), os.environ.get("R1_API_KEY"))
        with opened(requests, answers) as job:
            finished = run_loop(_run(Batch(job, endpoint, concurrency).run(), job))
            typer.echo(_summary(job), err=True)
    if not finished:
        typer.echo("Stopped; the same command goes on from here.", err=True)
        raise typer.Exit(130)


async def _run(work: Coroutine[None, None, None], job: Job) -> bool:
    """Whether it came to its end before Ctrl-C or SIGTERM."""
    from serve.supervise import StopSignals, end, until_stopped

    signals = StopSignals()
    showing = asyncio.create_task(_show(job))
    try:
        with signals.installed():
            return await until_stopped(work, signals)
    finally:
        await end(showing)


async def _show(job: Job) -> None:
    """How far the job is, until cancelled: a bar on a terminal, elsewhere a line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_INTERVAL_S)
            typer.echo(_summary(job), err=True)
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=job.num_lines, completed=job.num_answered, failed=0)
        while True:
            await asyncio.sleep(SHOW_INTERVAL_S)
            progress.update(task, completed=job.num_answered, failed=job.num_failed, refresh=True)


def _summary(job: Job) -> str:
    text = f"{job.num_answered} of {job.num_lines} requests answered"
    return f"{text}, {job.num_failed} of them with an error" if job.num_failed else text
