"""One page, tried from its first block to its last, as a reader would who types everything."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from tests.docs.here import Here, Wrong
from tests.docs.pages import Block, Fate
from tests.docs.shapes import (
    in_output,
    not_in,
    read_json,
    refused_manifest,
    refused_queries,
    refused_record,
    refused_settings,
    unlike,
)
from tests.docs.shell import Shell, sessions
from tests.docs.stand_ins import PROGRAMS
from tests.monitoring.support import Exported

REQUESTS, ANSWERS = "requests.jsonl", "answers.jsonl"
"""What `r1-serve batch` reads and writes on the pages."""

_ONE_SCRIPT = threading.Lock()
"""Standard output and the folder are the whole process'."""


class Trial:
    """Of one page. `complaints` say where, and what is wrong."""

    def __init__(self, shell: Shell, exports: Exported) -> None:
        self.complaints: list[str] = []
        self._shell = shell
        self._exports = exports
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._replies: list[Any] = []
        self._output = ""

    def run(self, blocks: list[Block], meanwhile: Mapping[str, str]) -> list[str]:
        """All complaints. `meanwhile`: how a block begins → what happens before it."""
        self._write_files(blocks)
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            for begins, text in meanwhile.items():
                if block.text.startswith(begins):
                    self._shell.run(text)
            match block.fate:
                case Fate.SHELL:
                    self._run_shell(block, fails=after is not None and _is_error(after))
                case Fate.SESSION:
                    self._run_session(block)
                case Fate.PYTHON:
                    self._run_python(block)
                case Fate.REPLY:
                    self._say(block, self._check_reply(block))
                case Fate.OUTPUT:
                    self._say(block, unlike(block.text, self._output))
                case Fate.QUERY:
                    self._say(block, refused_queries(block.text, self._exports))
                case Fate.SETTINGS | Fate.MANIFEST:
                    self._say(block, refused(block))
                case None:
                    self._say(block, f"nobody knows what to do with {block.language!r}")
        self._close()
        return self.complaints

    def _write_files(self, blocks: list[Block]) -> None:
        """What the reader makes of blocks: settings that begin with their name, requests."""
        for it in blocks:
            if it.language == "toml" and (name := re.match(r"# ([\w-]+\.toml)\b", it.text)):
                (self._shell.checkout / name[1]).write_text(it.text)
            if it.language == "json" and "custom_id" in it.text and "body" in _read(it):
                (self._shell.checkout / REQUESTS).write_text(it.text)

    def _say(self, block: Block, complaint: str | None, line: int = 0) -> None:
        if complaint is not None:
            self.complaints.append(f"{block.page}:{line or block.line}: {complaint}")

    def _run_shell(self, block: Block, fails: bool) -> None:
        done = self._shell.run(block.text)
        self._output, self._replies = done.output, in_output(done.output)
        if fails is not bool(done.status):
            line, command = done.failed or (1, "the error that the page shows doesn't come")
            self._say(block, f"{command}: {done.output.strip()[-800:]}", block.line + line - 1)

    def _run_session(self, block: Block) -> None:
        for line, command, shown in sessions(block):
            done = self._shell.run(command, terminal=True)
            if shown.strip():
                self._say(block, unlike(shown, done.output), line)
            elif done.status:
                self._say(block, f"{command.strip()}: {done.output.strip()[-800:]}", line)
            self._output, self._replies = done.output, in_output(done.output)

    def _run_python(self, block: Block) -> None:
        """As if all the page's blocks were one script."""
        printed = io.StringIO()
        before = dict(self._names)
        place = (self._shell.folder / "place").read_text().strip()
        try:
            code = compile("\n" * (block.line - 1) + self._shell.filled(block.text), "page", "exec")
            with _ONE_SCRIPT, contextlib.redirect_stdout(printed), contextlib.chdir(place):
                exec(code, self._names)
        except (Exception, SystemExit) as exc:
            frames = traceback.extract_tb(exc.__traceback__)
            lines = [it.lineno for it in frames if it.filename == "page"]
            line = lines[-1] if lines else getattr(exc, "lineno", None)
            self._say(block, f"{type(exc).__name__}: {exc}", line or block.line)
        self._output = self._shell.as_told(printed.getvalue())
        new = [it for name, it in self._names.items() if before.get(name) is not it]
        self._replies = [
            it.model_dump(warnings=False) for it in reversed(new) if hasattr(it, "model_dump")
        ]
        self._replies += in_output(self._output)

    def _check_reply(self, block: Block) -> str | None:
        try:
            shown = read_json(block.text)
        except ValueError as exc:
            return f"is no JSON: {exc}"
        if isinstance(shown, dict):
            if "custom_id" in shown:
                path = self._shell.checkout / (ANSWERS if "response" in shown else REQUESTS)
                if not path.exists():
                    return f"no command made {path.name}"
                return not_in(shown, map(read_json, path.read_text().splitlines()))
            if {"request_id", "route"} <= shown.keys():
                return refused_record(shown)
        return not_in(shown, self._replies)

    def _close(self) -> None:
        """The clients that the page made."""
        for it in self._names.values():
            if hasattr(it, "close") and type(it).__module__.split(".")[0] in (
                "openai",
                "anthropic",
            ):
                it.close()


def refused(block: Block) -> str | None:
    """What can be said of a block with nothing running."""
    match block.fate:
        case Fate.SETTINGS:
            return refused_settings(block.text)
        case Fate.MANIFEST:
            return refused_manifest(block.text)
        case None:
            return f"nobody knows what to do with {block.language!r}"
    return None


def refused_mention(block: Block) -> str | None:
    """Of a command in code within a line, which is only looked at."""
    name, *words = shlex.split(block.text)
    try:
        PROGRAMS[name](words, Here(only_checks=True))
    except Wrong as exc:
        return f"{block.where}: {block.text.strip()}: {exc}"
    return None


def _read(block: Block) -> dict[str, Any]:
    try:
        found = read_json(block.text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_error(block: Block) -> bool:
    return block.fate is Fate.REPLY and bool(_read(block).get("error")) and len(_read(block)) < 3
