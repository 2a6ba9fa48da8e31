"""Files of JSON lines, read strictly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from serve.settings import SettingsError

T = TypeVar("T", bound=msgspec.Struct)


def read_lines(path: Path, kind: type[T], form: str) -> Iterator[T]:
    """Each line as a `kind`; blank ones are left out. Raises `SettingsError`, which names the line
    and says the `form` that one has."""
    decode = msgspec.json.Decoder(kind).decode
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield decode(line)
        except msgspec.DecodeError as error:
            message = f"{path}, line {number}: {error}; each line is {form}"
            raise SettingsError(message) from error
