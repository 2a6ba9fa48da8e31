"""Every command and snippet of README and docs is tried, in the order of its page.

What becomes of a block follows from its language (`pages.Fate`); one with none fails its page. The
product is real: a router over the shared engine, `r1-serve` itself, the SDKs, Prometheus' parser,
kustomize. Programs that would need a cluster, a daemon, a GPU or minutes are stand-ins that check
what they are told (`stand_ins.py`). What is neither is in `EXCEPTIONS`.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.docs.conftest import Machine, needed
from tests.docs.pages import PAGES, Block, blocks, mentioned, name_of
from tests.docs.shell import Shell
from tests.docs.trial import Trial, refused, refused_mention

SERVER = " http://127.0.0.1:8000/"
STORE = "$HOME/.cache/r1-serve/models/deepseek-ai--DeepSeek-R1-Distill-Qwen-1.5B"


class Exempt(NamedTuple):
    """A block that isn't tried. `instead` is the test that holds what it says; None: it says
    nothing that could be wrong."""

    page: str
    begins: str
    why: str
    instead: str | None


EXCEPTIONS = (
    Exempt("README.md", "your client ──", "a drawing", None),
    Exempt(
        "demo_model/README.md",
        "user       ",
        "a sample of the model's, which has words of its own each time",
        "tests/demo_model/test_problems.py::test_the_chinese_fibonacci_question_is_a_training_phrasing",
    ),
    Exempt(
        "docs/chat.md",
        "$ r1-serve chat\nr1-demo at",
        "what is typed after a command",
        "tests/terminal/test_chat.py::test_a_session_is_as_the_page_shows_it",
    ),
    Exempt(
        "docs/operations.md",
        "See it with: RAY_AUTH_MODE=token",
        "a Ray of one's own takes 10 s to start",
        "tests/test_fanout.py::test_scaling_under_load_fails_no_request",
    ),
    Exempt(
        "docs/troubleshooting.md",
        "ok       python     3.11.7",
        "a machine with a GPU and an old driver",
        "tests/doctor/test_command.py::test_a_gpu_that_does_not_fit_is_found_out",
    ),
)

BEFORE = {
    "docs/load-tests.md": """
        r1-serve bench run --url http://gpu-box:8000 --out bench-results/before
        cp -r bench-results/before bench-results/after
    """,
    "docs/operations.md": "r1-serve scale 1",
    "docs/runbook.md": """
        r1-serve key create alice
        r1-serve model pull
    """,
}
"""What the reader has done on another page, or long ago."""
MEANWHILE = {
    "docs/models.md": {
        "$ r1-serve model verify": f"printf x | dd conv=notrunc of={STORE}/model.safetensors",
    },
}
"""What happens to the reader's machine before a block: how it begins → commands."""

pages = pytest.mark.parametrize("path", PAGES, ids=name_of)


def tried(path: Path) -> list[Block]:
    return [it for it in blocks(path) if not any(map(it.text.startswith, exempt(it.page)))]


def exempt(page: str) -> list[str]:
    return [it.begins for it in EXCEPTIONS if it.page == page]


@pages
def test_every_block_has_a_fate(path: Path) -> None:
    """Nothing is left out for being in a language that nobody thought of."""
    assert [it.where for it in tried(path) if it.fate is None] == []


@pages
def test_what_needs_no_server_is_right(path: Path) -> None:
    """Settings, manifests, and commands that are named within a line."""
    needed("kubectl", "make", "promtool")
    complaints = [(it.where, refused(it)) for it in tried(path)]
    assert [it for it in complaints if it[1] is not None] == []
    named = [it for it in mentioned(path) if not it.text.startswith("curl")]
    assert [it for it in map(refused_mention, named) if it is not None] == []


@pytest.mark.engine
@pages
def test_the_page_does_what_it_says(path: Path, trials: dict[Path, Future[list[str]]]) -> None:
    """Command after command, block after block."""
    assert trials[path].result() == []


@pytest.fixture(scope="module")
def trials(
    machine: Machine, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[Path, Future[list[str]]]]:
    """Of the pages that are asked for, two at a time: what a page does is mostly to wait."""
    asked = [it for it in request.session.items if "trials" in getattr(it, "fixturenames", ())]
    found = {it.callspec.params["path"]: tmp_path_factory.mktemp("page") for it in asked}
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(trial, path, machine, folder) for path, folder in found.items()}


def trial(path: Path, machine: Machine, folder: Path) -> list[str]:
    """What is wrong on a page; its reader's home is in `folder`."""
    page = name_of(path)
    mentions = [it for it in mentioned(path) if it.text.startswith("curl")]
    todo = [*tried(path), *(it._replace(text=it.text.replace(" URL/", SERVER)) for it in mentions)]
    if not todo:
        return []
    asks_stack = re.search(r"r1-serve (status|scale|restart)", path.read_text(encoding="utf-8"))
    shell = Shell(folder, machine.here, machine.addresses, machine.env)
    shell.prepare()
    with machine.stack_lock if asks_stack else contextlib.nullcontext():
        if before := BEFORE.get(page):
            done = shell.run(textwrap.dedent(before))
            assert done.status == 0, done.output
        return Trial(shell, machine.exports).run(todo, MEANWHILE.get(page, {}))


@pytest.mark.parametrize("exception", EXCEPTIONS, ids=lambda it: f"{it.page} {it.begins}")
def test_no_exception_is_stale(exception: Exempt) -> None:
    """Its block is there, once, and so is the test that stands in for it."""
    found = [it for it in blocks(ROOT / exception.page) if it.text.startswith(exception.begins)]
    assert len(found) == 1
    if exception.instead is None:
        return
    name, _, function = exception.instead.partition("::")
    assert f"def {function}(" in (ROOT / name).read_text(encoding="utf-8")
