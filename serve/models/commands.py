"""`r1-serve model …`: fetches a model for serving offline, checks and lists what is there."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from serve.commands import clear_errors
from serve.models.store import (
    HubName,
    Manifest,
    ModelError,
    is_repo,
    model_dir,
    read_manifest,
    store_dir,
    stored_models,
)
from serve.settings import EngineSettings, SettingsError

model_app = typer.Typer(
    help="Fetch, check and list models for serving without a network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_REPO = EngineSettings().model
_STOPPED = 130
_WIDTH = 1000
"""No path is cut: the terminal may wrap it."""


@model_app.command("pull")
def pull_model(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name.")] = DEFAULT_REPO,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Default: its place in the store.")
    ] = None,
    hub: Annotated[HubName, typer.Option("--hub")] = "huggingface",
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", metavar="URL", help="A mirror; default: HF_ENDPOINT, MODELSCOPE_ENDPOINT."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read all that is there, and fetch what is broken.")
    ] = False,
) -> None:
    """Fetch a model into a directory that vLLM serves offline, and print the directory.

    Stopped or killed, the same command goes on from there. A model that is complete isn't asked
    for again. The hub's token is read from HF_TOKEN or MODELSCOPE_API_TOKEN.
    """
    from serve.models.hubs import HUBS
    from serve.models.progress import Shown
    from serve.models.pull import Wanted, pull

    with _clear_errors():
        if not is_repo(repo):
            raise SettingsError(f"`{repo}` is no repository; write owner/name")
        directory = Path(os.path.expanduser(to or model_dir(store_dir(), repo))).absolute()
        source = _checked(endpoint or HUBS[hub].endpoint_here())
        with Shown() as shown:
            pull(Wanted(repo, directory, HUBS[hub], source, revision, repair), shown)
    typer.echo(directory)


@model_app.command("verify")
def verify_model(
    model: Annotated[
        str, typer.Argument(metavar="DIR|REPO", help="A directory, or a model of the store.")
    ] = DEFAULT_REPO,
) -> None:
    """Read every byte of a model and hold it against the checksums of the pull.

    A directory from elsewhere has none: then what its files say of themselves is checked. Ends with
    1 where something is missing or broken.
    """
    from rich.filesize import decimal

    from serve.models.check import check_model
    from serve.models.progress import Shown

    with _clear_errors():
        directory = _named(model)
        manifest = read_manifest(directory)
        with Shown() as shown:
            if manifest is not None:
                shown.begin(f"Reading {manifest.repo}", manifest.num_bytes)
            found = check_model(directory, shown.advance)
    for damage in found.damage:
        typer.echo(f"{directory / damage.name} {damage.problem}")
    if found.damage:
        typer.echo(f"Mend it with: {_remedy(manifest, directory)}", err=True)
        raise typer.Exit(1)
    if manifest is None:
        typer.echo(f"{directory}: nothing wrong is seen; there are no checksums to go by")
    else:
        size = decimal(manifest.num_bytes)
        typer.echo(f"{directory}: {len(manifest.files)} files, {size}, all as pulled")


@model_app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the models in the store (R1_SERVE_MODELS): revision, size, complete or not, path."""
    with _clear_errors():
        models = stored_models(store_dir())
    if as_json:
        rows = [
            {
                "repo": it.repo,
                "hub": it.manifest and it.manifest.hub,
                "revision": it.manifest and it.manifest.revision,
                "commit": it.manifest and it.manifest.commit,
                "num_bytes": it.num_bytes,
                "complete": it.complete,
                "path": str(it.path),
            }
            for it in models
        ]
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("model", "revision", "size", "state", "path", box=None)
    for it in models:
        state = "complete" if it.complete else "incomplete"
        table.add_row(it.repo, _revision(it.manifest), decimal(it.num_bytes), state, str(it.path))
    if models:
        Console(width=_WIDTH).print(table)
    else:
        typer.echo(f"No models in {store_dir()}")


def _revision(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    return " ".join(filter(None, (manifest.revision, (manifest.commit or "")[:8])))


def _checked(endpoint: str) -> str:
    if "@" in endpoint:  # not shown: there may be a password in it
        raise SettingsError("An --endpoint with a user isn't supported; write https://name")
    try:
        parts = urlsplit(endpoint)
        host, port = (parts.hostname or "").encode("idna"), parts.port
        usable = parts.scheme in ("http", "https") and host and port != 0 and not parts.query
    except ValueError:  # no port's number, an unclosed bracket, a name that IDNA can't encode
        usable = False
    if not usable or not endpoint.isprintable() or not endpoint.isascii() or " " in endpoint:
        raise SettingsError(f"`{endpoint}` is no --endpoint; write https://name")
    return endpoint.rstrip("/")


def _named(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    directory = model_dir(store_dir(), model)
    if is_repo(model) and directory.is_dir():
        return directory
    if is_repo(model):
        raise ModelError(f"{model} isn't in {store_dir()}: `{_pull_command(model)}` fetches it")
    raise ModelError(f"There is no directory {model}")


def _remedy(manifest: Manifest | None, directory: Path) -> str:
    """The command that fetches what is wrong, from where the rest came."""
    from serve.models.hubs import HUBS

    if manifest is None:
        return "r1-serve model pull REPO (docs/models.md)"
    options = ["--repair"]
    if directory.absolute() != model_dir(store_dir(), manifest.repo):
        options += ["--to", str(directory)]
    if manifest.hub != "huggingface":
        options += ["--hub", manifest.hub]
    if manifest.endpoint != HUBS[manifest.hub].endpoint_here():
        options += ["--endpoint", manifest.endpoint]
    return _pull_command(manifest.repo, *options)


def _pull_command(repo: str, *options: str) -> str:
    return shlex.join(["r1-serve", "model", "pull", repo, *options])


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """As `clear_errors`; what the disk refuses and being stopped are told, too."""
    with clear_errors(), _stopped_by_sigterm():
        try:
            yield
        except OSError as exc:
            raise ModelError(str(exc)) from exc
        except KeyboardInterrupt:
            typer.echo("Stopped; the same command goes on from here.", err=True)
            raise typer.Exit(_STOPPED) from None


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does, also as a container's first process, for which the system has no
    default."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
