"""Every command and snippet of README and docs is tried, in the order of its page.

What becomes of a block follows from its language (`pages.Fate`); one with none fails its page. The
product is real: a router over the shared engine, `r1-serve` itself, the SDKs, Prometheus' parser,
kustomize. Programs that would need a cluster, a daemon, a GPU or minutes are stand-ins that check
what they are told (`stand_ins.py`). What is neither is in `EXCEPTIONS`.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from serve.settings import EngineSettings
from tests.conftest import ROOT, Program, RunningEngine
from tests.docs import stand_ins
from tests.docs.here import Here
from tests.docs.pages import PAGES, Block, blocks, mentioned, name_of
from tests.docs.shell import Shell
from tests.docs.trial import Trial, refused, refused_mention
from tests.models.hub import running_hub
from tests.monitoring.support import Exported, exported
from tests.monitoring.test_queries import of_router
from tests.stack import running_stack, url_of

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
def test_every_block_has_a_fate_and_what_needs_no_server_is_right(path: Path) -> None:
    """Settings, manifests, and commands that are named within a line."""
    complaints = [(it.where, refused(it)) for it in tried(path)]
    assert [it for it in complaints if it[1] is not None] == []
    named = [it for it in mentioned(path) if not it.text.startswith("curl")]
    assert [it for it in map(refused_mention, named) if it is not None] == []


@pytest.mark.engine
@pages
def test_the_page_does_what_it_says(
    path: Path, reader: Callable[[str], Shell], exports: Exported
) -> None:
    """Command after command, block after block."""
    asked = [
        it._replace(text=it.text.replace(" URL/", " http://127.0.0.1:8000/"))
        for it in mentioned(path)
        if it.text.startswith("curl")
    ]
    todo = [*tried(path), *asked]
    if todo:
        trial = Trial(reader(name_of(path)), exports)
        assert trial.run(todo, MEANWHILE.get(name_of(path), {})) == []


@pytest.mark.parametrize("exception", EXCEPTIONS, ids=lambda it: f"{it.page} {it.begins}")
def test_no_exception_is_stale(exception: Exempt) -> None:
    """Its block is there, once, and so is the test that stands in for it."""
    found = [it for it in blocks(ROOT / exception.page) if it.text.startswith(exception.begins)]
    assert len(found) == 1
    if exception.instead is None:
        return
    name, _, function = exception.instead.partition("::")
    assert f"def {function}(" in (ROOT / name).read_text(encoding="utf-8")


# --- the reader's machine -----------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What all pages share. `stack` starts what `r1-serve status` asks."""

    here: Here
    addresses: dict[str, str]
    env: dict[str, str]


@pytest.fixture(scope="module")
def exports(machine: Machine) -> Exported:
    """All that Prometheus would scrape."""
    of_engine = exported(httpx.get(f"{machine.here.engine}/metrics").text)
    return {**of_engine, **of_router()}


@pytest.fixture(scope="module")
def machine(engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("docs")
    stand_ins.install(folder / "bin")
    clone(folder / "checkout")
    weights = {it.name: it.read_bytes() for it in (ROOT / "demo_model" / "weights").iterdir()}
    program = Program("router", "--engine-url", engine.url, "--port", "0")
    (folder / "stack").mkdir()
    fake = {"PYTHONPATH": str(ROOT / "tests" / "fake_vllm")}
    try:
        program.wait_for("Serving ", 30)
        router = url_of(program)
        with (
            running_hub(**{EngineSettings().model.replace("/", "__"): weights}) as hub,
            running_stack(folder / "stack", fake, 1) as stack,
        ):
            here = Here(
                checkout=str(folder / "checkout"),
                router=router,
                engine=engine.url,
                stack=str(stack._config),
                far=str(folder / "far"),
            )
            by_name = engine.url.replace("127.0.0.1", "localhost")
            addresses = {
                "http://127.0.0.1:8000": router,
                "http://localhost:8000": router,
                "http://gpu-box:8000": router,
                "http://127.0.0.1:8100": engine.url,
                "http://engine-0:8000": engine.url,
                "http://engine-1:8000": by_name,
                "http://engines:8000": by_name,
                "http://a:8000": engine.url,
                "http://b:8000": by_name,
                "https://hf-mirror.com": hub.url,
            }
            env = {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "KEY": "none"}
            yield Machine(here, addresses, env)
        assert program.stop() == 0
    finally:
        program.close()


def clone(folder: Path) -> None:
    """What a reader has cloned, and the files that pages take for granted."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "tests", "vendor", "bench-results")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / "my.toml").write_text('base = "cpu"\n')
    (folder / "r1.toml").write_text(
        '[telemetry]\naccess_log = true\n[router]\nengine_urls = ["http://127.0.0.1:9"]\n'
    )
    (folder / "ray.toml").write_text(
        'base = "auto"\n[engine]\nbackend = "ray"\n[ray]\naddress = "auto"\n'
    )


@pytest.fixture
def reader(machine: Machine, tmp_path: Path) -> Callable[[str], Shell]:
    """A home for one page, after what came before it."""

    def arrive(page: str) -> Shell:
        shell = Shell(tmp_path, machine.here, machine.addresses, machine.env)
        shell.prepare()
        if before := BEFORE.get(page):
            done = shell.run(textwrap.dedent(before))
            assert done.status == 0, done.output
        return shell

    return arrive
