"""Where a page's commands run, as the programs that stand in for others see it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path(__file__).parent.parent.parent
"""Again, since `tests.conftest` takes longer to import than most commands take to run."""
VARIABLE = "R1_DOCS_HERE"


class Wrong(Exception):
    """What a page says doesn't hold; the message says why."""


@dataclass(frozen=True)
class Here:
    """`checkout` is what the reader has cloned; `only_checks` where nothing may be done."""

    checkout: str = str(ROOT)
    router: str = ""
    engine: str = ""
    stack: str = ""
    """Settings of the `r1-serve up` over stand-ins that `status`, `scale` and `restart` find."""
    report: str = ""
    """Gets a line for each command that says what can't be, whatever bash makes of its status."""
    far: str = ""
    """The root of the machine that `ssh` and `rsync` reach."""
    path: str = os.environ["PATH"]
    """Where the real programs are: a page's shell finds the stand-ins alone."""
    only_checks: bool = False

    def dumped(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def of_environment(cls) -> Here:
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)

    def file(self, name: str) -> Path:
        """Raises `Wrong` where the reader has none of that name."""
        path = self.base / name
        if not path.exists():
            raise Wrong(f"there is no {name}")
        return path

    @property
    def base(self) -> Path:
        return Path(self.checkout) if self.only_checks else Path.cwd()


def read_yaml(path: Path) -> list[Any]:
    """All documents in it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=loader))


Options = dict[str, list[str]]


def split_options(
    arguments: list[str], with_value: set[str], flags: set[str], until_word: bool = False
) -> tuple[Options, list[str]]:
    """Options and the words beside them; `until_word`: what follows the first word is all words.
    Raises `Wrong` for an option that is in neither set."""
    options: Options = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            words.append(word)
            if until_word:
                return options, words + rest
        elif name in with_value:
            if not given and not rest:
                raise Wrong(f"{name} wants a value")
            options.setdefault(name, []).append(value if given else rest.pop(0))
        elif word in flags:
            options[word] = []
        else:
            raise Wrong(f"there is no option {word}")
    return options, words


def is_placeholder(word: str) -> bool:
    """POD, NODE, N and the like, which a reader fills in; or a variable in code within a line."""
    return word.isupper() or word.startswith("$") or word == "…"


def labelled(value: Any) -> list[dict[str, str]]:
    """Every set of labels in an object, those of its pods' templates among them."""
    found = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("labels", "matchLabels") and isinstance(inner, dict):
                found.append(inner)
            found += labelled(inner)
    elif isinstance(value, list):
        for inner in value:
            found += labelled(inner)
    return found
