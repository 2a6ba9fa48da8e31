"""Strict decoding of mappings (TOML files, JSON bodies) into typed structs.

msgspec checks types and ranges; this adds what people need to mend a mistake: every unknown key is
named together with the nearest right one. Pure: no files, no HTTP. Callers turn `StrictError` into
their own error.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import TypeVar, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")


class StrictError(ValueError):
    """`field` is the dotted path of the offending key (`""` when the whole is at fault)."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownKeyError(StrictError):
    """A key that the target type doesn't have."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, or None when none is close."""
    matches = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence to append to a message: the nearest name, else nothing."""
    match = nearest(name, known)
    return f"; did you mean `{match}`?" if match else ""


def convert(data: Mapping[str, object], kind: type[T], path: str = "") -> T:
    """`data` as a `kind` (a msgspec Struct); `path` is where it stands. Raises `StrictError` that
    names the field."""
    check_keys(data, kind, path)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as exc:
        reason, _, inner = str(exc).partition(" - at `")
        field = inner.rstrip("`").removeprefix("$").removeprefix(".")
        # "…, got `str`" is a wrong type, else a number is out of its range
        known = None if ", got " in reason else _range_message(field, data, kind)
        where = ".".join(filter(None, (path, field)))
        raise StrictError(known or _sentence(where, reason), where) from exc


def _sentence(field: str, reason: str) -> str:
    reason = reason[:1].lower() + reason[1:]
    return f"`{field}`: {reason}" if field else reason


def _range_message(field: str, data: Mapping[str, object], kind: type) -> str | None:
    """The whole range, where a top-level number is out of it (msgspec names one bound only)."""
    value = data.get(field)
    meta = _meta_in(get_type_hints(kind, include_extras=True).get(field))
    if meta is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if meta.ge is not None and meta.le is not None:
        bounds = f"between {meta.ge} and {meta.le}"
    else:
        named = (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le))
        bounds = " and ".join(f"{word} {bound}" for word, bound in named if bound is not None)
    return f"`{field}` must be {bounds}, got {value}" if bounds else None


def _meta_in(hint: object) -> msgspec.Meta | None:
    """The `Meta` in `Annotated[..., Meta]` or in one member of a union, else None."""
    for candidate in (hint, *get_args(hint)):
        for extra in getattr(candidate, "__metadata__", ()):
            if isinstance(extra, msgspec.Meta):
                return extra
    return None


@functools.cache
def _fields(kind: type) -> dict[str, object]:
    """Key → type. Cached: resolving the annotations of a large struct takes over a millisecond."""
    hints = get_type_hints(kind)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(kind)}


def check_keys(data: Mapping[str, object], kind: type, path: str = "") -> None:
    """Raises `UnknownKeyError` on the first key, at any depth of structs and of dicts of structs,
    that `kind` does not have."""
    fields = _fields(kind)
    for key, value in data.items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            raise UnknownKeyError(f"unknown field `{where}`{did_you_mean(key, fields)}", where)
        if isinstance(value, Mapping):
            _check_mapping(value, fields[key], where)


def _check_mapping(value: Mapping[str, object], hint: object, where: str) -> None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        check_keys(value, hint, where)
    elif get_origin(hint) is dict:
        for key, inner in value.items():
            if isinstance(inner, Mapping):
                _check_mapping(inner, get_args(hint)[1], f"{where}.{key}")
    else:
        for option in get_args(hint):
            _check_mapping(value, option, where)
