"""`r1-serve bench`: run a load test, show it again, compare two. Heavy imports are inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from serve.commands import ConfigOption, clear_errors, run_loop
from serve.settings import SettingsError

if TYPE_CHECKING:
    from benchmarks.loadtest.load import Kind
    from benchmarks.loadtest.plan import Sweep
    from benchmarks.loadtest.run import Plan
    from benchmarks.loadtest.store import Run

START_TIMEOUT_S = 900.0

bench_app = typer.Typer(
    help="Load tests: run one, show it again, compare two.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunArgument = Annotated[Path, typer.Argument(help="A test's directory, or its run.json.")]


@bench_app.command()
def run(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="The endpoint. Without it: `r1-serve up` is started for the test."
        ),
    ] = None,
    config: ConfigOption = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Served name; default: the first that is served.")
    ] = None,
    workload: Annotated[
        str, typer.Option("--workload", help="One of `bench workloads`, or a .toml file.")
    ] = "demo",
    concurrency: Annotated[
        str, typer.Option("--concurrency", help="Closed loop: conversations at a time, as 1,4,16.")
    ] = "",
    rates: Annotated[
        str, typer.Option("--rates", help="Open loop: conversations begun per second, as 1,2,4.")
    ] = "",
    batch: Annotated[str, typer.Option("--batch", help="So many conversations at once.")] = "",
    trace: Annotated[
        str, typer.Option("--trace", help="Open loop: replay a file of arrivals (Mooncake's form).")
    ] = "",
    search: Annotated[
        str, typer.Option("--search", help="Find the highest load: `rate` or `concurrency`.")
    ] = "",
    start: Annotated[
        float, typer.Option("--start", min=0.001, help="The first load of a search.")
    ] = 1.0,
    speed: Annotated[float, typer.Option("--speed", min=0.001, help="Of a trace.")] = 1.0,
    burstiness: Annotated[
        float, typer.Option("--burstiness", min=0, help="Of rates. 1: Poisson; 4: in bunches.")
    ] = 1.0,
    ramp: Annotated[float, typer.Option("--ramp", min=0, help="Seconds to reach a load.")] = 0.0,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Measured.")] = 30.0,
    warm_up: Annotated[float, typer.Option("--warm-up", min=0, help="Seconds before.")] = 5.0,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds after, for what was sent to end.")
    ] = 60.0,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Of all loads; 3 or more to compare by.")
    ] = 1,
    stop_below: Annotated[
        float,
        typer.Option("--stop-below", min=0, max=1, help="End where fewer keep to the limits."),
    ] = 0.0,
    slo_ttft_ms: Annotated[float, typer.Option("--slo-ttft-ms", min=0, help="0: no limit.")] = 2000,
    slo_tpot_ms: Annotated[float, typer.Option("--slo-tpot-ms", min=0, help="0: no limit.")] = 80,
    slo_ttfa_ms: Annotated[float, typer.Option("--slo-ttfa-ms", min=0, help="0: no limit.")] = 0,
    slo_e2e_s: Annotated[float, typer.Option("--slo-e2e-s", min=0, help="0: no limit.")] = 0,
    share: Annotated[
        float, typer.Option("--share", min=0.01, max=1, help="Of the requests, within the limits.")
    ] = 0.95,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory; default: bench-results/…")
    ] = None,
) -> None:
    """Put loads on an endpoint and report what users would see.

    Without --concurrency, --rates, --batch, --trace or --search: a search by concurrency. Ctrl-C
    keeps what was measured. The endpoint's key, if it wants one, is read from R1_API_KEY.
    """
    with clear_errors(), _needed_packages():
        from benchmarks.loadtest.client import Endpoint
        from benchmarks.loadtest.drive import Span
        from benchmarks.loadtest.run import Plan
        from benchmarks.loadtest.workload import Conversations, folder_of, load_workload
        from benchmarks.slo import Slo
        from serve.discovery import engine_url

        values: dict[Kind, str] = {"concurrency": concurrency, "rate": rates, "batch": batch}
        sweep = msgspec.structs.replace(
            _sweep(values, (trace, speed), search),
            start=start,
            burstiness=burstiness,
            ramp_s=ramp,
            stop_below=stop_below,
        )
        e2e_ms = 1000 * slo_e2e_s
        limits = (slo_ttft_ms or None, slo_tpot_ms or None, slo_ttfa_ms or None, e2e_ms or None)
        slo = Slo(*limits, share)
        asked = Conversations(load_workload(workload), folder_of(workload), uuid.uuid4().hex)
        name = f"{asked.workload.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        directory = out or Path("bench-results") / name
        with contextlib.ExitStack() as stack:
            base = _base(engine_url(url)) if url else stack.enter_context(_served(config))
            endpoint = Endpoint(base, model or "", os.environ.get("R1_API_KEY"))
            plan = Plan(endpoint, asked, sweep, Span(warm_up, seconds, patience), slo, repeats)
            finished = run_loop(_run(plan, directory))
    raise typer.Exit(0 if finished else 130)


@bench_app.command()
def report(test: RunArgument) -> None:
    """Make a test's page and pictures again, and print its table."""
    with clear_errors(), _needed_packages():
        from benchmarks.loadtest.store import read_run

        _show(read_run(test), test if test.is_dir() else test.parent)


@bench_app.command()
def compare(before: RunArgument, after: RunArgument) -> None:
    """Say what got better or worse beyond noise. Exit status 1 where something is worse or gone."""
    from rich.console import Console

    with clear_errors(), _needed_packages():
        from benchmarks.loadtest.compare import compare as compared
        from benchmarks.loadtest.compare import comparison_table, is_worse, lost_loads, remarks
        from benchmarks.loadtest.store import read_run

        one, other = read_run(before), read_run(after)
        differences = compared(one, other)
        console = Console()
        console.print(comparison_table(differences))
        for remark in remarks(one, other, differences):
            console.print(remark, highlight=False, markup=False)
    raise typer.Exit(int(is_worse(differences) or bool(lost_loads(one, other))))


@bench_app.command()
def workloads() -> None:
    """List the shipped workloads, with how many words their prompts have."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from benchmarks.loadtest.workload import load_workload, prompt_words, shipped

    table = Table()
    for title in ("name", "tenant", "words p10", "p50", "p90", "what"):
        table.add_column(title)
    for name in shipped():
        workload = load_workload(name)
        try:
            found = prompt_words(workload)
        except SettingsError as error:
            table.add_row(name, "", "", "", "", escape(f"{workload.description}; {error}"))
            continue
        for tenant, words in found.items():
            table.add_row(name, tenant, *(f"{n:.0f}" for n in words), workload.description)
    Console().print(table)


def _sweep(given: dict[Kind, str], trace_at_speed: tuple[str, float], search: str) -> Sweep:
    """Raises `SettingsError` for what can't be read, or can't be asked at once."""
    from benchmarks.loadtest.load import read_trace
    from benchmarks.loadtest.plan import Sweep

    trace, speed = trace_at_speed
    asked = [kind for kind, values in given.items() if values]
    if len(asked) + bool(trace) + bool(search) > 1:
        raise SettingsError(
            "give one of --concurrency, --rates, --batch, --trace and --search, not several"
        )
    if search not in ("", "rate", "concurrency"):
        raise SettingsError(f"--search must be `rate` or `concurrency`, got {search!r}")
    if trace:
        read_trace(trace)
        return Sweep("rate", (speed,), trace=trace)
    if asked:
        return Sweep(asked[0], _numbers(asked[0], given[asked[0]]))
    return Sweep("rate" if search == "rate" else "concurrency")


def _numbers(kind: Kind, text: str) -> tuple[float, ...]:
    option = "--rates" if kind == "rate" else f"--{kind}"
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(
            f"{option} takes numbers with commas, as 1,4,16; got {text!r}"
        ) from None
    if any(not 0 < value < 1e6 for value in values):
        raise SettingsError(f"{option}: every load must be above 0 and below 1e6, got {text!r}")
    return values


def _base(url: str) -> str:
    """Without the `/v1` that SDKs are given. Raises `SettingsError`."""
    if "@" in urlsplit(url).netloc:
        raise SettingsError("--url has a user or password in it; a key goes into R1_API_KEY")
    return url.removesuffix("/v1")


@contextlib.contextmanager
def _served(config: Path | None) -> Iterator[str]:
    """A stack of our own for the test; its URL."""
    from benchmarks.processes import Child, NotReadyError, free_port

    with tempfile.TemporaryDirectory(prefix="r1-bench") as scratch:
        port = free_port()
        argv = [sys.executable, "-m", "serve", "up", "--port", str(port)]
        argv += ["--config", str(config)] if config else []
        typer.echo(f"starting {shlex.join(['r1-serve', *argv[3:]])} …", err=True)
        child = Child(argv, Path(scratch) / "up.log")
        try:
            child.wait_ready(f"http://127.0.0.1:{port}/ready", START_TIMEOUT_S)
            yield f"http://127.0.0.1:{port}"
        except NotReadyError as error:
            raise SettingsError(f"the endpoint did not start: {error}") from error
        finally:
            child.stop(grace_s=30.0)


async def _run(plan: Plan, directory: Path) -> bool:
    """Whether the test came to its end before Ctrl-C or SIGTERM; shown either way."""
    from rich.console import Console

    from benchmarks.loadtest.run import new_run, run_test
    from benchmarks.loadtest.store import Store
    from benchmarks.loadtest.terminal import Terminal
    from serve.supervise import StopSignals, end, until_stopped

    plan, found = await new_run(plan, directory.name, shlex.join(["r1-serve", *sys.argv[1:]]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each conversation
    store = Store(directory)
    terminal = Terminal(Console(stderr=True), plan.repeats)
    showing = asyncio.create_task(terminal.show())
    signals = StopSignals()
    try:
        with signals.installed():
            finished = await until_stopped(run_test(plan, found, store, terminal), signals)
    finally:
        await end(showing)
        store.close()
    _show(found, directory)
    return finished


def _show(found: Run, directory: Path) -> None:
    from rich.console import Console

    from benchmarks.loadtest.report import conclusions, terminal_table, write_report

    console = Console()
    if not found.points or not any(point.repeats for point in found.points):
        console.print("Nothing was measured.")
        return
    console.print(terminal_table(found))
    for sentence in conclusions(found):
        console.print(sentence, highlight=False, markup=False)
    page, *pictures = write_report(found, directory)
    console.print(
        f"{page} and {len(pictures)} pictures; run.json has every figure", highlight=False
    )


@contextlib.contextmanager
def _needed_packages() -> Iterator[None]:
    """What the extra `bench` brings, named when it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{error.name} is not installed; load tests need the extra: pip install"
            " 'r1-serve[bench]'"
        ) from None
