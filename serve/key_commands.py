"""`r1-serve key …`: makes, lists and revokes the keys in a file.

A table is added at the end or cut out as lines, so that other keys and comments stay as they are.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from serve.keys import NAME_PATTERN, Key, check_keys_data, new_key, read_keys
from serve.limits import Limits
from serve.settings import SettingsError
from serve.strict import did_you_mean

key_app = typer.Typer(
    help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None
)

FileOption = Annotated[
    Path, typer.Option("--file", help="The keys file; name it as `server.keys_file`.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, show_default="no limit")]
KEYS_FILE = Path("keys.toml")
_FIRST_LINES = "# Keys of r1-serve, stored as SHA-256. Edit with `r1-serve key`, or by hand.\n"


@key_app.command()
def create(
    name: str,
    file: FileOption = KEYS_FILE,
    max_in_flight: LimitOption = None,
    requests_per_minute: LimitOption = None,
    tokens_per_minute: LimitOption = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Its requests run after everyone else's.")
    ] = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    key, key_id, digest = new_key()
    entry = Key(
        id=key_id,
        hash=digest,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        priority_class="batch" if batch else "interactive",
        max_in_flight=max_in_flight,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    with _clear_errors():
        add_key(file, name, entry)
    typer.echo(key)


@key_app.command("list")
def list_keys(file: FileOption = KEYS_FILE) -> None:
    """List the keys: name, id, date, class and limits."""
    with _clear_errors():
        for name, key in read_keys(file).items():
            limits = [
                f"{field}={value}"
                for field in Limits.__struct_fields__
                if (value := getattr(key, field)) is not None
            ]
            typer.echo("  ".join([name, key.id, key.created, key.priority_class, *limits]))


@key_app.command()
def revoke(name: str, file: FileOption = KEYS_FILE) -> None:
    """Take a key out of the file; running routers refuse it within two seconds."""
    with _clear_errors():
        remove_key(file, name)
    typer.echo(f"revoked {name}", err=True)


def add_key(path: Path, name: str, key: Key) -> None:
    """Raises `SettingsError`."""
    if not re.match(NAME_PATTERN, name):
        raise SettingsError(f"`{name}` can't name a key; use letters, digits, `-` and `_`")
    with _locked(path):
        if path.exists() and name in read_keys(path):
            raise SettingsError(f"{path}: there is a key `{name}` already; revoke it first")
        text = path.read_text() if path.exists() else _FIRST_LINES
        _write(path, f"{text.rstrip()}\n\n{as_table(name, key)}")


def remove_key(path: Path, name: str) -> None:
    """Raises `SettingsError`."""
    with _locked(path):
        keys = read_keys(path)
        if name not in keys:
            raise SettingsError(f"{path}: there is no key `{name}`{did_you_mean(name, keys)}")
        text = without_table(path.read_text(), name)
        if name in check_keys_data(tomllib.loads(text), path):
            raise SettingsError(
                f"{path}: `{name}` isn't written as a table `[keys.{name}]`; take it out by hand"
            )
        _write(path, text)


def as_table(name: str, key: Key) -> str:
    """TOML. For strings of these patterns and for numbers, JSON's form is TOML's."""
    lines = [
        f"{field} = {msgspec.json.encode(value).decode()}\n"
        for field in ("id", "hash", "created", "priority_class", *Limits.__struct_fields__)
        if (value := getattr(key, field)) is not None
    ]
    return f"[keys.{name}]\n{''.join(lines)}"


def without_table(text: str, name: str) -> str:
    """`text` without the table `[keys.NAME]`; comments that lead up to the next table stay."""
    header = re.compile(rf"\s*\[\s*keys\s*\.\s*{re.escape(name)}\s*\]")
    kept: list[str] = []
    inside = False
    trailing: list[str] = []
    for line in text.splitlines(keepends=True):
        words = line.strip()
        if words.startswith("["):
            inside = header.match(line) is not None
            kept, trailing = kept + trailing, []
        if not inside:
            kept.append(line)
        elif words.startswith("#") or (trailing and not words):
            trailing.append(line)
        else:
            trailing = []
    return "".join(kept + trailing)


def _write(path: Path, text: str) -> None:
    """All or nothing, readable by the owner only. A symbolic link stays one."""
    target = Path(os.path.realpath(path))
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:  # mkstemp's mode is 0600
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One edit at a time: the directory is locked, since the file itself is replaced."""
    descriptor = os.open(os.path.realpath(path.parent), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except (SettingsError, OSError) as exc:
        typer.echo(f"r1-serve: {exc}", err=True)
        raise typer.Exit(2) from None
