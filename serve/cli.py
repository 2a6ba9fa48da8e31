"""The command line: each command reads settings, overrides a few and hands over.

`r1-serve router` needs neither vLLM nor torch and starts in about a second, so what only some
commands use is imported inside them.
"""

from __future__ import annotations

import functools
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.loadtest.commands import bench_app
from benchmarks.planner.command import plan_command
from serve import __version__
from serve.batch_command import batch
from serve.commands import (
    ConfigOption,
    clear_errors,
    needed_machine,
    read_settings,
    replaced,
    run_loop,
    validated,
    with_engines,
)
from serve.console import Console, ConsoleHandler
from serve.doctor.command import doctor
from serve.engine import Machine, engine_command, find_machine, traced
from serve.fleet_commands import restart, scale, status
from serve.key_commands import key_app
from serve.keys import check_exposure, read_keys
from serve.models.commands import model_app
from serve.settings import EngineSettings, Settings
from serve.terminal.command import chat
from serve.ui_command import ui

app = typer.Typer(
    help="Serve DeepSeek-R1-Distill-Qwen-1.5B on stock vLLM behind a reasoning-aware router.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(key_app, name="key")
app.add_typer(bench_app, name="bench")
app.add_typer(model_app, name="model")
for command in (restart, scale, status, batch, doctor, ui, chat):
    app.command()(command)
app.command("plan")(plan_command)

HostOption = Annotated[str | None, typer.Option("--host", help="Address the router listens on.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Router processes on the one port.")
]
PortOption = Annotated[int | None, typer.Option("--port", help="The router's port; 0: a free one.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Directory, or repository on the Hugging Face hub.")
]
NameOption = Annotated[
    str | None,
    typer.Option("--served-name", help="Name in the API; default: the model's last part."),
]


@app.command()
def up(
    config: ConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    model: ModelOption = None,
    served_name: NameOption = None,
    num_replicas: Annotated[
        int | None, typer.Option("--num-replicas", min=1, help="Engines to start.")
    ] = None,
    workers: WorkersOption = None,
) -> None:
    """Start the engines and the router, and serve until Ctrl-C or SIGTERM.

    Without --config: configs/cpu.toml (the bundled demo model) or configs/gpu.toml (the 1.5B),
    after the vLLM that is installed.
    """
    console = Console()
    with clear_errors():
        from serve import launch

        def read() -> tuple[Settings, Machine | None]:
            machine = find_machine()
            settings = read_settings(config, machine)
            settings = _with_server(settings, host=host, port=port, workers=workers)
            engine = _with_model(settings.engine, model, served_name)
            engine = traced(replaced(engine, num_replicas=num_replicas), settings.telemetry)
            return validated(msgspec.structs.replace(settings, engine=engine)), machine

        settings, machine = read()
        _check_router(settings)
        _configure_logging(console, settings)
        run_loop(launch.up(settings, machine, console, _run_router, read))
    raise typer.Exit(0)


@app.command()
def engine(
    config: ConfigOption = None,
    model: ModelOption = None,
    served_name: NameOption = None,
    port: Annotated[int | None, typer.Option("--port", help="The engine's port.")] = None,
    print_argv: Annotated[
        bool, typer.Option("--print-argv", help="Only print the command and its environment.")
    ] = False,
) -> None:
    """Start one engine alone, its log on the terminal, until Ctrl-C or SIGTERM."""
    console = Console()
    with clear_errors():
        from serve import launch

        machine = needed_machine()
        settings = read_settings(config, machine)
        changed = _with_model(settings.engine, model, served_name)
        changed = traced(replaced(changed, port=port, num_replicas=1), settings.telemetry)
        settings = validated(msgspec.structs.replace(settings, engine=changed))
        if print_argv:
            command = engine_command(settings.engine, machine, port=settings.engine.port)
            env = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
            typer.echo(" ".join([*env, shlex.join(command.argv)]))
        else:
            _configure_logging(console, settings)
            run_loop(launch.run_engine(settings, machine, console))
    raise typer.Exit(0)


@app.command()
def router(
    engine_url: Annotated[
        list[str] | None, typer.Option("--engine-url", help="An engine's URL; may be repeated.")
    ] = None,
    engine_dns: Annotated[
        str | None,
        typer.Option("--engine-dns", help="http://name:port; all addresses of it are engines."),
    ] = None,
    engine_file: Annotated[
        Path | None, typer.Option("--engine-file", help="File of engine URLs, one a line; watched.")
    ] = None,
    host: HostOption = None,
    port: PortOption = None,
    config: ConfigOption = None,
    workers: WorkersOption = None,
) -> None:
    """Start the router alone over engines that run elsewhere (no vLLM needed here)."""
    console = Console()
    with clear_errors():
        from serve.discovery import make_source

        settings = read_settings(config, find_machine()) if config else Settings()
        settings = _with_server(settings, host=host, port=port, workers=workers)
        changed = with_engines(settings.router, engine_url, engine_dns, engine_file)
        settings = validated(msgspec.structs.replace(settings, router=changed))
        make_source(changed)
        _configure_logging(console, settings)
        run_loop(_router_alone(settings, console))
    raise typer.Exit(0)


@app.command(hidden=True)
def worker() -> None:
    """One of several router processes; `--workers` starts it and tells it what to do."""
    console = Console()
    with clear_errors():
        from serve import workers

        assignment = workers.read_assignment()
        if assignment is not None:
            _configure_logging(console, assignment.settings)
            run_loop(workers.work(assignment))
    raise typer.Exit(0)


@app.command()
def version() -> None:
    """Print the version of r1-serve, and of vLLM where it is installed."""
    typer.echo(f"r1-serve {__version__}")
    if machine := find_machine():
        typer.echo(f"vLLM {machine.vllm_version} ({machine.device})")


async def _run_router(settings: Settings, on_started: Callable[[str], None]) -> None:
    """Serves until cancelled, then drains; `on_started` gets the URL."""
    from serve import server, workers
    from serve.file_limit import raise_file_limit
    from serve.router import build_app

    if settings.server.workers == 1:
        app = build_app(settings)
        server.spare_collector()
        raise_file_limit()
        await server.run(app, settings.server, on_started=on_started)
    else:
        await workers.run(settings, on_started=on_started)


async def _router_alone(settings: Settings, console: Console) -> None:
    from serve.supervise import StopSignals, until_stopped

    signals = StopSignals()
    on_started = functools.partial(console.serving, settings)
    with signals.installed():
        await until_stopped(_run_router(settings, on_started), signals)


def _with_server(settings: Settings, **changes: object) -> Settings:
    server = replaced(settings.server, **changes)
    check_exposure(server)
    return msgspec.structs.replace(settings, server=server)


def _check_router(settings: Settings) -> None:
    """Reads and opens what the router will once the engines are up. Raises `SettingsError`."""
    from serve.journal import Journal
    from serve.presets import read_presets
    from serve.worker import ALONE

    if settings.server.keys_file is not None:
        read_keys(Path(settings.server.keys_file))
    read_presets(settings.router)
    Journal(settings.telemetry, ALONE)


def _with_model(engine: EngineSettings, model: str | None, name: str | None) -> EngineSettings:
    """Another model isn't served under the name of the one in the settings."""
    if model is not None and name is None:
        name = Path(model).name
    return replaced(engine, model=model, served_name=name)


def _configure_logging(console: Console, settings: Settings) -> None:
    # What no line shows needn't be looked up for each ("Optimization" in Python's logging HOWTO).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    level = settings.server.log_level.upper()
    logging.basicConfig(level=level, handlers=[ConsoleHandler(console)], force=True)
    if level == "INFO":
        logging.getLogger("uvicorn").setLevel("WARNING")
