"""Dockerfiles, .dockerignore and compose.yaml: that they agree with the settings, the pins and each
other, and that no more gets into an image than should.

Nothing is built here but the wheel. docs/docker.md says what was tried with a real build.
"""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml

from serve import __version__
from serve.engine import Machine, engine_command
from serve.engine_keeper import STOP_MARGIN_S
from serve.keys import check_exposure
from serve.settings import config_dir, load_settings
from tests.conftest import ROOT

DOCKERFILES = sorted(ROOT.glob("Dockerfile*"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
LASTING = {name: it for name, it in SERVICES.items() if name not in ("key", "model")}
DOCKER_SETTINGS = ROOT / "configs" / "docker"
DRAIN_MARGIN_S = 10
"""docs/operations.md, Drain: what the process gets on top of `server.drain_timeout_s`."""


class Instruction(NamedTuple):
    word: str
    rest: str


def instructions(path: Path) -> list[Instruction]:
    """Without comments, continued lines as one."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    parts = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [Instruction(word, rest) for word, rest in parts]


def last_stage(path: Path) -> list[Instruction]:
    found = instructions(path)
    begin = max(i for i, it in enumerate(found) if it.word == "FROM")
    return found[begin:]


def the(path: Path, word: str) -> str:
    """What the only such instruction of the last stage says; for a user, the last one."""
    found = [it.rest for it in last_stage(path) if it.word == word]
    assert len(found) == 1 or word == "USER", f"{path.name}: {word}"
    return found[-1]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    def test_it_runs_as_a_numbered_user_without_rights(self, path: Path) -> None:
        """By number, since Kubernetes can't tell of a name whether it is root (runAsNonRoot)."""
        assert the(path, "USER") == "1000:1000"

    def test_signals_reach_the_program(self, path: Path) -> None:
        """No shell between: every command is a list."""
        assert json.loads(the(path, "ENTRYPOINT")) == ["r1-serve"]
        assert isinstance(json.loads(the(path, "CMD")), list)
        assert the(path, "EXPOSE") == str(load_settings(None).server.port)

    def test_the_version_is_this_checkouts(self, path: Path) -> None:
        assert f'org.opencontainers.image.version="{__version__}"' in the(path, "LABEL")

    def test_every_base_can_be_given_by_digest(self, path: Path) -> None:
        """Each stage begins from an argument whose default is a tag that stays what it is."""
        found = instructions(path)
        first = next(i for i, it in enumerate(found) if it.word == "FROM")
        bases = dict(it.rest.split("=", 1) for it in found[:first])
        for stage in (it.rest for it in found if it.word == "FROM"):
            name = re.match(r"\$\{(\w+)\}", stage)
            assert name, stage
            assert re.fullmatch(r"[\w./-]+:(v?\d+\.\d+[\w.-]*)", bases[name[1]])

    def test_what_it_copies_is_in_the_context(self, path: Path) -> None:
        copied = [
            source
            for it in instructions(path)
            if it.word == "COPY" and not it.rest.startswith("--from")
            for source in it.rest.split()[:-1]
        ]
        inside = context(tracked())
        for source in copied:
            assert any(name == source or name.startswith(f"{source}/") for name in inside), source

    def test_the_wheel_is_made_as_for_the_router(self, path: Path) -> None:
        """The stage is written out in each file, so that each can be built by itself."""
        stage = r"^FROM \$\{PYTHON_IMAGE\} AS wheel$.*?^RUN .*hatchling.*?$"
        texts = [re.search(stage, it.read_text(), re.M | re.S) for it in (path, DOCKERFILES[0])]
        assert texts[0] is not None
        assert texts[1] is not None
        assert texts[0][0] == texts[1][0]

    def test_the_health_check_asks_the_router(self, path: Path, answering: Answering) -> None:
        command = json.loads(the(path, "HEALTHCHECK").partition(" CMD ")[2])
        assert health_statuses(command, answering) == [0, 1]


def test_lists_that_an_image_combines_agree() -> None:
    """The router's image has its own list, which the demo's covers; Ray's goes beside vLLM for
    GPUs."""
    router, image, cpu, ray, gpu = map(pins, ("router", "image", "cpu", "ray", "gpu"))
    assert router.items() <= image.items() <= cpu.items()
    assert {name: gpu.get(name, version) for name, version in ray.items()} == ray
    assert router.items() <= ray.items()
    vllm = f"vllm/vllm-openai:v{gpu['vllm']}"
    assert ("ARG", f"VLLM_IMAGE={vllm}") in instructions(ROOT / "Dockerfile.gpu")
    assert SERVICES["engine-gpu"]["image"] == vllm


class Answering(NamedTuple):
    """A server on a free port; what it answers can be changed."""

    port: int
    status: list[int]


@pytest.fixture(scope="module")
def answering() -> Iterator[Answering]:
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0] if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Answering(server.server_port, status)
        server.shutdown()
        thread.join()


def health_statuses(command: list[str], answering: Answering) -> list[int]:
    """Exit statuses of the check where the server is well, and where it is not."""
    program, option, code = command
    assert program in ("python", "python3")
    assert code.count("8000") == 1
    argv = [sys.executable, option, code.replace("8000", str(answering.port))]
    statuses = []
    for answering.status[0] in (200, 500):
        statuses.append(subprocess.run(argv, check=False, timeout=60).returncode)
    return statuses


# --- the build's context ------------------------------------------------------------------------


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return listed.stdout.splitlines()


def context(names: list[str]) -> list[str]:
    """Those of `names` that .dockerignore lets into the build, by Docker's rules: the last pattern
    that matches the path or a folder above it decides."""
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    rules = [(line.startswith("!"), as_regex(line.removeprefix("!"))) for line in patterns]

    def enters(name: str) -> bool:
        parts = name.split("/")
        paths = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        inside = True
        for keep, regex in rules:
            if any(regex.fullmatch(path) for path in paths):
                inside = keep
        return inside

    return [name for name in names if enters(name)]


def as_regex(pattern: str) -> re.Pattern[str]:
    """`**/` is any folders or none, `*` whatever is no slash."""
    parts = re.split(r"(\*\*/|\*|\[[^]]*\])", pattern)
    made = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile(
        "".join(made.get(it) or (it if it.startswith("[") else re.escape(it)) for it in parts)
    )


def test_only_what_is_copied_enters_the_context() -> None:
    inside = context(tracked())
    assert {name.split("/")[0] for name in inside} == {
        *("LICENSE", "README.md", "pyproject.toml"),
        *("benchmarks", "configs", "demo_model", "requirements", "serve"),
    }
    assert all(
        name.startswith("demo_model/weights/") for name in inside if name.startswith("demo_model")
    )
    size = sum((ROOT / name).stat().st_size for name in inside)
    assert size < 16 * 1024 * 1024, f"{size} bytes"


@pytest.mark.parametrize(
    "name",
    [
        *("keys.toml", "configs/keys.toml", "configs/docker/keys.toml", "keys/keys.toml"),
        *(".env", "configs/.env", "serve/.env", ".git/config", ".venv/bin/python"),
        *("serve/__pycache__/cli.cpython-311.pyc", "bench-results/quick/page.html"),
        *("k8s/base/engine.yaml", "tests/conftest.py", "demo_model/train.py", "Dockerfile"),
    ],
)
def test_secrets_and_what_lies_about_stay_out(name: str) -> None:
    assert context([name]) == []


def test_the_wheel_has_the_program_and_its_settings_alone(tmp_path: Path) -> None:
    build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == f"r1_serve-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        *("serve", "benchmarks", f"r1_serve-{__version__}.dist-info"),
    }
    settings = {name for name in names if name.startswith("serve/configs/")}
    assert settings == {f"serve/configs/{path.name}" for path in config_dir().glob("*.toml")}
    modules = {name for name in tracked() if re.fullmatch(r"serve/.*\.py", name)}
    assert modules <= set(names)


# --- settings and compose.yaml ------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(DOCKER_SETTINGS.glob("*.toml")), ids=lambda path: path.stem)
def test_settings_of_containers_can_be_used(path: Path) -> None:
    """They listen on the container's addresses: with keys, unless the file's name says open."""
    settings = load_settings(path, "cpu")
    check_exposure(settings.server)
    assert settings.server.port == 8000
    if path.stem == "engine-cpu":
        assert (settings.engine.host, settings.engine.port) == ("0.0.0.0", 8000)
    else:
        assert settings.server.host == "0.0.0.0"
        assert settings.server.allow_anonymous == (path.stem == "open")
        assert settings.server.keys_file == (None if path.stem == "open" else "/keys/keys.toml")


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_stopping_leaves_time_for_the_drain() -> None:
    router = load_settings(DOCKER_SETTINGS / "router.toml").server
    grace = {
        name: seconds(it["stop_grace_period"])
        for name, it in LASTING.items()
        if "stop_grace_period" in it
    }
    assert grace["router"] >= router.drain_timeout_s + DRAIN_MARGIN_S
    cpu = load_settings(DOCKER_SETTINGS / "engine-cpu.toml").engine
    gpu = load_settings(config_dir() / "gpu.toml").engine
    assert grace["engine-cpu"] >= cpu.shutdown_timeout_s + STOP_MARGIN_S
    assert grace["engine-gpu"] >= gpu.shutdown_timeout_s + STOP_MARGIN_S
    assert {"engine-gpu", "engine-cpu"} <= set(SERVICES["router"]["depends_on"]), "stops first"


def test_the_gpu_engine_runs_as_the_product_would_start_it() -> None:
    gpu = load_settings(config_dir() / "gpu.toml").engine
    model = SERVICES["model"]["command"][-1]
    here = msgspec.structs.replace(gpu, model=model, host="0.0.0.0")
    machine = Machine("gpu", pins("gpu")["vllm"], has_rust_frontend=True)
    command = engine_command(here, machine, port=8000)
    after = command.argv.index("serve") + 1
    engine = SERVICES["engine-gpu"]
    assert engine["command"] == list(command.argv[after:])
    assert engine["environment"] == {**command.env, "HOME": "/home/vllm"}
    assert seconds(engine["healthcheck"]["start_period"]) == gpu.startup_timeout_s
    assert SERVICES["model"]["command"][2] == gpu.model
    assert engine["depends_on"]["model"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (name != "engine-gpu"), "NVIDIA's hook writes"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert re.search(r":v?\d+\.\d+\.\d+(-cpu)?$", service["image"])
    if service["image"].startswith("r1-serve"):
        assert service["image"] in (f"r1-serve:{__version__}", f"r1-serve:{__version__}-cpu")


def test_each_image_of_ours_is_built_by_one_service() -> None:
    """Two that build the same tag at once fail. The router's is built by `docker compose build`,
    with no profile, before the first key is made."""
    builds = {name: it["image"] for name, it in SERVICES.items() if "build" in it}
    assert builds == {
        "router": f"r1-serve:{__version__}",
        "engine-cpu": f"r1-serve:{__version__}-cpu",
    }
    assert "profiles" not in SERVICES["router"]
    for text in (ROOT / "compose.yaml", ROOT / "docs" / "docker.md"):
        first, _, after = text.read_text().partition("docker compose build ")
        assert "docker compose run" in after
        assert "docker compose run" not in first


@pytest.mark.parametrize("name", LASTING)
def test_a_container_that_stays_is_watched(name: str, answering: Answering) -> None:
    """The router by its image's own check."""
    assert LASTING[name]["restart"] == "unless-stopped"
    if name.startswith("engine"):
        kind, *command = LASTING[name]["healthcheck"]["test"]
        assert kind == "CMD"
        assert health_statuses(command, answering) == [0, 1]
    elif name != "router":
        assert LASTING[name]["healthcheck"]["test"][0] == "CMD"


def test_what_is_mounted_is_there() -> None:
    """Files of this checkout, read-only, or volumes that are declared."""
    for name, service in SERVICES.items():
        for source, _, mode in (it.partition(":") for it in service.get("volumes", [])):
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert mode.endswith(":ro"), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"


def test_only_router_and_prometheus_reach_the_engines() -> None:
    on_engines = {name for name, it in SERVICES.items() if "engines" in it.get("networks", [])}
    assert on_engines == {"router", "prometheus", "engine-gpu", "engine-cpu"}
    assert COMPOSE["networks"]["engines"]["internal"] is True
    router = load_settings(DOCKER_SETTINGS / "router.toml").router
    for name in ("engine-gpu", "engine-cpu"):
        (alias,) = SERVICES[name]["networks"]["engines"]["aliases"]
        assert router.engine_dns == f"http://{alias}:8000"
        assert not SERVICES[name].get("ports")


def test_keys_are_a_folder_that_one_service_writes_and_the_router_reads() -> None:
    """A file by itself would stay what it was at the start, and a revoked key would go on."""
    assert SERVICES["key"]["volumes"] == ["keys:/keys"]
    assert SERVICES["key"]["working_dir"] == "/keys"
    assert "keys:/keys:ro" in SERVICES["router"]["volumes"]


def test_prometheus_scrapes_under_the_names_that_alerts_and_dashboards_use() -> None:
    config = yaml.safe_load((DOCKER_SETTINGS / "prometheus.yml").read_text())
    jobs = {it["job_name"]: it for it in config["scrape_configs"]}
    monitoring = ROOT / "k8s" / "components" / "monitoring"
    texts = [monitoring / "alerts.yaml", *(monitoring / "dashboards").glob("*.json")]
    used = {
        job
        for text in texts
        for found in re.findall(r'job=~?\\?"([^"\\]+)', text.read_text())
        for job in found.split("|")
    }
    assert used == set(jobs)
    assert jobs["r1-router"]["static_configs"] == [{"targets": ["router:8000"]}]
    assert jobs["r1-engine"]["dns_sd_configs"] == [{"names": ["engine"], "type": "A", "port": 8000}]
    source = yaml.safe_load((DOCKER_SETTINGS / "grafana/datasources/prometheus.yaml").read_text())
    (prometheus,) = source["datasources"]
    assert prometheus["url"] == "http://prometheus:9090"
    assert prometheus["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
