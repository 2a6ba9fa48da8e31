"""What the commands share: options, how settings are read and changed, how errors are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import uvloop

from serve.engine import NO_VLLM, Machine, find_machine
from serve.settings import RouterSettings, Settings, SettingsError, config_dir, load_settings
from serve.strict import StrictError, convert

R = TypeVar("R")
T = TypeVar("T", bound=msgspec.Struct)

DOCTOR = "`r1-serve doctor`, with the same --config, checks the machine and the settings."
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file (TOML); docs/configuration.md.")
]


def read_settings(config: Path | None, machine: Machine | None) -> Settings:
    """The settings in `config`, or those that are shipped for the vLLM that is installed. Raises
    `SettingsError`."""
    if config is None:
        if machine is None:
            raise SettingsError(NO_VLLM)
        config = config_dir() / f"{machine.device}.toml"
    return load_settings(config, machine.device if machine else "gpu")


def needed_machine() -> Machine:
    """Raises `SettingsError` where no vLLM is installed."""
    machine = find_machine()
    if machine is None:
        raise SettingsError(NO_VLLM)
    return machine


def replaced(settings: T, **changes: object) -> T:
    """`settings` with the changes that are not None."""
    given = {name: value for name, value in changes.items() if value is not None}
    return msgspec.structs.replace(settings, **given)


def validated(settings: Settings) -> Settings:
    """Holds what the command line changed to the same rules. Raises `SettingsError`."""
    try:
        return convert(msgspec.to_builtins(settings), Settings)
    except StrictError as exc:
        raise SettingsError(str(exc)) from exc


def with_engines(
    router: RouterSettings, urls: list[str] | None, dns: str | None = None, file: Path | None = None
) -> RouterSettings:
    """What the command line says about where the engines are replaces what the settings say."""
    if not (urls or dns or file):
        return router
    return msgspec.structs.replace(
        router, engine_urls=urls or [], engine_dns=dns, engine_file=str(file) if file else None
    )


def run_loop(main: Coroutine[Any, Any, R]) -> R:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Errors that a person can mend: a sentence and an exit status, no traceback."""
    try:
        yield
    except Exception as exc:
        told = _told(exc)
        if told is None:
            raise
        text, status = told
        typer.echo(f"r1-serve: {text}", err=True)
        raise typer.Exit(status) from None


def _told(exc: Exception) -> tuple[str, int] | None:
    """What to say of it, and the exit status; None where it isn't expected. The errors' modules are
    heavy, so they are imported for an error alone."""
    from serve.batch import EndpointError
    from serve.batch_files import BatchError
    from serve.engine_faults import EngineStartError
    from serve.models.store import ModelError
    from serve.running import NotRunning
    from serve.server import ServerError

    if isinstance(exc, (SettingsError, BatchError)):
        return str(exc), 2
    if isinstance(exc, EngineStartError):
        return f"{exc}\n{DOCTOR}", 1
    if isinstance(exc, (EndpointError, ModelError, NotRunning, ServerError)):
        return str(exc), 1
    return None
