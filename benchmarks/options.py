"""A benchmark's settings are its options: one for each field, with its type and default."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def parser_for(defaults: DataclassInstance, prog: str, doc: str) -> argparse.ArgumentParser:
    """What it parses are `defaults`' fields; a truth value is a flag that sets it."""
    parser = argparse.ArgumentParser(
        prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(defaults).items():
        flag = "--" + name.replace("_", "-")
        if value is False:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(value), default=value)
    return parser
