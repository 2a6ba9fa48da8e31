"""A reader's shell: bash in a checkout of its own, with a PATH of stand-ins. What one block sets,
and where it goes, holds for the next."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tests.docs.here import VARIABLE, Here
from tests.docs.pages import Block

LIMIT_S = 120
HOME = "/home/me"
"""As pages have it."""
_BEGIN = (
    "set -aeE -o pipefail; trap 'echo \"$LINENO $BASH_COMMAND\" >{report}' ERR; "
    "trap 'status=$?; export -p >{state}; pwd >{place}; exit $status' EXIT; "
    '[ ! -f {state} ] || . {state}; cd "$(cat {place})"\n'
)


class Done(NamedTuple):
    """`failed`: the line in the text, from 1, and the command. `output` is as a page has it."""

    status: int
    output: str
    failed: tuple[int, str] | None


@dataclass
class Shell:
    folder: Path
    here: Here
    addresses: dict[str, str]
    """In pages → here. The longest first, where one begins another."""
    env: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "me"

    @property
    def checkout(self) -> Path:
        return self.home / "r1-serve"

    def prepare(self) -> None:
        """A home with a checkout in it, whose files belong to all pages, and those of its own."""
        self.checkout.mkdir(parents=True)
        for it in Path(self.here.checkout).iterdir():
            (self.checkout / it.name).symlink_to(it)
        (self.folder / "place").write_text(str(self.checkout))
        (self.folder / "tmp").mkdir()

    def filled(self, text: str) -> str:
        for name, real in self.addresses.items():
            text = re.sub(rf"{re.escape(name)}(?![\w.-])", real, text)
        return text

    def as_told(self, output: str) -> str:
        for name, real in reversed(self.addresses.items()):
            output = output.replace(real, name)
        output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output).replace("\r\n", "\n")
        return output.replace(str(self.home), HOME)

    def run(self, text: str, terminal: bool = False) -> Done:
        """Until the first command that fails."""
        files = {name: str(self.folder / name) for name in ("report", "state", "place")}
        Path(files["report"]).write_text("")
        wrong = self.folder / "wrong"
        wrong.write_text("")
        script = self.folder / "script"
        script.write_text(_BEGIN.format(**files) + _each(self.filled(text)))
        command = [shutil.which("bash") or "", "--noprofile", "--norc", str(script)]
        output, status = (_on_terminal if terminal else _run)(command, self._environment())
        failed = re.match(r"(\d+) (.*)", Path(files["report"]).read_text(), re.S)
        where = (int(failed[1]) - 1, failed[2].strip()) if failed and status else None
        if not status and (hidden := wrong.read_text().strip()):
            status, where = 1, (1, hidden)
        return Done(status, self.as_told(output), where)

    def _environment(self) -> dict[str, str]:
        kept = {name: it for name, it in os.environ.items() if name.startswith(("LANG", "LC_"))}
        return {
            **kept,
            "HOME": str(self.home),
            "PATH": str(Path(self.here.checkout).parent / "bin"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "200",
            VARIABLE: replace(self.here, report=str(self.folder / "wrong")).dumped(),
            **self.env,
        }


def _each(text: str) -> str:
    """`a && b` as two commands, since bash lets the first of such fail."""
    return re.sub(r"""^([^'"\n#]*?) && """, r"\1 ; ", text, flags=re.M)


def _run(command: list[str], env: dict[str, str]) -> tuple[str, int]:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        timeout=LIMIT_S,
        check=False,
    )
    return done.stdout.decode(errors="replace"), done.returncode


def _on_terminal(command: list[str], env: dict[str, str]) -> tuple[str, int]:
    ours, its = pty.openpty()
    told: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                told.append(data)
        except OSError:  # nobody has it open any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
            env={**env, "TERM": "xterm"},
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        os.close(its)
        reader.join()
        os.close(ours)
    return b"".join(told).decode(errors="replace"), done.returncode


def sessions(block: Block) -> list[tuple[int, str, str]]:
    """Of what a terminal showed: the line of each command, the command, and what follows it."""
    found: list[tuple[int, str, str]] = []
    for number, line in enumerate(block.text.splitlines()):
        if line.startswith("$ "):
            found.append((block.line + number, line[2:] + "\n", ""))
        elif found and found[-1][1].endswith("\\\n"):
            found[-1] = (found[-1][0], found[-1][1] + line + "\n", "")
        elif found:
            at, command, output = found[-1]
            found[-1] = (at, command, output + line + "\n")
    return found
