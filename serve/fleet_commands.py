"""`r1-serve restart`, `scale`, `status`: about the engines of the `r1-serve up` that runs here."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from serve.commands import ConfigOption, clear_errors, read_settings
from serve.engine import find_machine

if TYPE_CHECKING:
    from serve.control import FleetStatus, Question
    from serve.running import Running

PortOption = Annotated[
    int | None, typer.Option("--port", help="The router's port, where several `up` run.")
]


def restart(config: ConfigOption = None, port: PortOption = None) -> None:
    """Let the running `up` restart its engines one by one, with the settings read again."""
    with clear_errors():
        found = _find(config, port)
        os.kill(found.pid, signal.SIGUSR1)
        typer.echo(f"Asked pid {found.pid} to restart its engines; it tells how that goes.")


def scale(
    num_replicas: Annotated[int, typer.Argument(min=1, help="Engines to run from now on.")],
    config: ConfigOption = None,
    port: PortOption = None,
) -> None:
    """Let the running `up` start more engines, or end some when what they run is finished.

    Returns when that is done.
    """
    from serve.control import Scale

    with clear_errors():
        fleet = _ask(_find(config, port), Scale(num_replicas))
    _show(fleet)
    if fleet.error is not None:
        typer.echo(f"r1-serve: {fleet.error}", err=True)
        raise typer.Exit(1)


def status(
    config: ConfigOption = None,
    port: PortOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the engines of the running `up`: where each is, how it is, and what it runs."""
    from serve.control import Look

    with clear_errors():
        fleet = _ask(_find(config, port), Look())
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(fleet.engines), indent=2).decode())
    else:
        _show(fleet)


def _find(config: Path | None, port: int | None) -> Running:
    from serve import running
    from serve.engine_keeper import log_dir

    return running.find(log_dir(read_settings(config, find_machine()).engine), port)


def _ask(found: Running, question: Question) -> FleetStatus:
    from serve.control import ask
    from serve.running import NotRunning

    try:
        return asyncio.run(ask(found.control, question))
    except (OSError, msgspec.DecodeError):
        raise NotRunning(
            f"pid {found.pid} is starting or stopping, and answers no questions"
        ) from None


def _show(fleet: FleetStatus) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("engine", "state", "running", "waiting", "KV cache", "url", box=None)
    for it in fleet.engines:
        loads = (it.num_running, it.num_waiting)
        usage = it.kv_cache_usage
        table.add_row(
            str(it.index),
            it.state,
            *("" if value is None else str(value) for value in loads),
            "" if usage is None else f"{usage:.0%}",
            f"{it.url} {it.place}".strip(),
        )
    Console().print(table)
