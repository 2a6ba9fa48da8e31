"""The pages, and what stands in them to be tried: fenced blocks, and commands within a line.

Every block has a fate, which follows from its language; `test_snippets.py` runs it.
"""

from __future__ import annotations

import re
import textwrap
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "demo_model" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
COMMANDS = ("curl", "docker", "kubectl", "make", "pip", "python", "ray")
"""Programs whose commands are tried also within a line of prose; `test_docs.py` looks at those of
`r1-serve`."""
_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.M | re.S)


class Fate(Enum):
    """What is done with a block."""

    SHELL = "run by bash, each program real or one that checks what it is told"
    SESSION = "its commands are run, and say what the page shows"
    PYTHON = "executed, names kept from block to block"
    REPLY = "its keys are those of the reply to the block before"
    OUTPUT = "the block before says so"
    SETTINGS = "read by what reads such a file"
    MANIFEST = "taken by what it is for"
    QUERY = "Prometheus parses it, and something exports what it names"


LANGUAGES = {
    "sh": Fate.SHELL,
    "bash": Fate.SHELL,
    "console": Fate.SESSION,
    "python": Fate.PYTHON,
    "json": Fate.REPLY,
    "toml": Fate.SETTINGS,
    "yaml": Fate.MANIFEST,
    "promql": Fate.QUERY,
}


class Block(NamedTuple):
    """`line` is that of the first line of its text, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def fate(self) -> Fate | None:
        """None where nothing here knows what to do with it."""
        if self.language in ("", "text"):
            return Fate.SESSION if self.text.startswith("$ ") else Fate.OUTPUT
        return LANGUAGES.get(self.language)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def blocks(path: Path) -> list[Block]:
    """In their order; also those that are indented, as in lists. Raises `ValueError` for a fence
    that nothing closes."""
    text = path.read_text(encoding="utf-8")
    found = []
    for it in _FENCE.finditer(text):
        language = it[3].strip(" {.").partition(" ")[0]
        line = text.count("\n", 0, it.start(4)) + 1
        found.append(Block(name_of(path), line, language, textwrap.dedent(it[4])))
    rest = re.search(r"^ *(```|~~~).*", _FENCE.sub("", text), re.M)
    if rest:
        raise ValueError(f"{name_of(path)}: nothing closes {rest[0]}")
    return found


def mentioned(path: Path) -> list[Block]:
    """Commands in code within a line, one program and what it is told; each as a block."""
    text = _FENCE.sub(lambda it: "\n" * it[0].count("\n"), path.read_text(encoding="utf-8"))
    programs = "|".join(map(re.escape, COMMANDS))
    found = []
    for it in re.finditer(r"(?<!`)`([^`\n]+)`(?!`)", text):
        if re.match(rf"({programs}) (?!--)", it[1]):
            line = text.count("\n", 0, it.start()) + 1
            found.append(Block(name_of(path), line, "sh", it[1] + "\n"))
    return found
