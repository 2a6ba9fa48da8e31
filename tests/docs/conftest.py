"""The machine of the reader of all pages."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serve.settings import EngineSettings
from tests.conftest import ROOT, Program, RunningEngine
from tests.docs import stand_ins
from tests.docs.here import Here
from tests.models.hub import running_hub
from tests.monitoring.support import Exported, exported
from tests.monitoring.test_queries import of_router
from tests.stack import running_stack, url_of


def needed(*names: str) -> None:
    """Without one of these programs the test that asks is skipped, or fails in CI."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"not on the PATH: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not on the PATH: {', '.join(missing)}")


@dataclass(frozen=True)
class Machine:
    """What all pages share: what serves, and where; `exports` is what Prometheus would scrape."""

    here: Here
    addresses: dict[str, str]
    env: dict[str, str]
    exports: Exported
    stack_lock: threading.Lock = field(default_factory=threading.Lock)
    """One page at a time changes the number of engines."""


@pytest.fixture(scope="module")
def machine(engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    needed("bash", "curl", "jq", "kubectl", "make", "promtool")
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
            of_engine = exported(httpx.get(f"{engine.url}/metrics").text)
            yield Machine(here, addresses, env, {**of_engine, **of_router()})
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
