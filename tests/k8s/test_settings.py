"""The manifests and the settings that they mount say the same."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from serve.cli import app
from serve.engine import Machine, engine_command
from serve.presets import load_presets
from serve.settings import config_dir
from tests.k8s.manifests import (
    VARIANTS,
    WITH_ENGINES,
    containers,
    env,
    main_container,
    mounted,
    port_of,
    render,
    selects,
)

OFFICIAL_IMAGE = Machine(device="gpu", vllm_version="0.32.0", has_rust_frontend=True)
"""What `vllm/vllm-openai` has in it."""


def config_path(container: dict[str, object]) -> Path:
    """What the container's command reads its settings from."""
    command = container["command"]
    assert isinstance(command, list)
    return Path(command[command.index("--config") + 1])


@pytest.mark.parametrize("overlay", ["edge", "gpu"])
def test_engines_get_what_the_settings_make_of_them(overlay: str) -> None:
    """Word for word what `r1-serve engine --print-argv` prints; only the program's name differs."""
    manifests = render(overlay)
    settings = manifests.settings().engine
    engine = main_container(manifests.pod("r1-engine"))
    command = engine_command(settings, OFFICIAL_IMAGE, port=settings.port)
    _python, _m, _module, *arguments = command.argv
    assert [*engine["command"], *engine["args"]] == ["vllm", *arguments]
    assert command.env.items() <= env(engine).items()
    assert settings.host == "0.0.0.0"


@pytest.mark.parametrize("overlay", WITH_ENGINES)
def test_the_router_finds_its_settings(overlay: str) -> None:
    """In the ConfigMap, with the presets beside them; it takes no other arguments."""
    manifests = render(overlay)
    template = manifests.pod("r1-router")
    router = main_container(template)
    path = config_path(router)
    assert router["command"] == ["r1-serve", "router", "--config", str(path)]
    name = mounted(template, router, str(path.parent))["configMap"]["name"]
    data = manifests.one("ConfigMap", name)["data"]
    assert {path.name, "presets.toml"} <= data.keys()
    assert Path(manifests.settings().router.presets or "").name == "presets.toml"
    assert data["presets.toml"] == (config_dir() / "presets.toml").read_text()


def test_the_mounted_presets_can_be_read() -> None:
    """They are those of the checkout."""
    assert load_presets(config_dir() / "presets.toml")


@pytest.mark.parametrize("overlay", ["edge", "gpu"])
def test_the_keys_are_mounted_as_a_directory(overlay: str) -> None:
    """Only then does Kubernetes change the file when the Secret changes."""
    manifests = render(overlay)
    template = manifests.pod("r1-router")
    router = main_container(template)
    keys = Path(manifests.settings().server.keys_file or "")
    volume = mounted(template, router, str(keys.parent))
    assert volume["secret"]["secretName"] == "r1-serve-keys"
    assert keys.name == "keys.toml"
    assert not any("subPath" in it for it in router["volumeMounts"])
    assert not manifests.settings().server.allow_anonymous


def test_only_dev_is_open_to_everyone() -> None:
    """It says so in its settings and mounts no keys."""
    manifests = render("dev")
    assert manifests.settings().server.allow_anonymous
    assert "r1-serve-keys" not in manifests.text


def test_devs_engine_reads_the_routers_settings() -> None:
    """There r1-serve itself starts vLLM, so no arguments can drift."""
    template = render("dev").pod("r1-engine")
    engine = main_container(template)
    path = config_path(engine)
    assert engine["command"] == ["r1-serve", "engine", "--config", str(path)]
    assert "args" not in engine
    assert mounted(template, engine, str(path.parent))["configMap"]


@pytest.mark.parametrize("overlay", WITH_ENGINES)
def test_the_router_resolves_the_headless_service(overlay: str) -> None:
    """Its name and its port, which is the engines' own: a headless Service maps none."""
    manifests = render(overlay)
    settings = manifests.settings()
    url = urlsplit(settings.router.engine_dns or "")
    service = manifests.one("Service", url.hostname or "")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    template = manifests.pod("r1-engine")
    assert selects(service["selector"], template["metadata"]["labels"])
    (port,) = service["ports"]
    engine = main_container(template)
    own = port_of(engine, port["targetPort"])
    assert url.port == port["port"] == own == settings.engine.port


@pytest.mark.parametrize("overlay", WITH_ENGINES)
def test_who_finds_no_room_waits_at_a_router(overlay: str) -> None:
    """All routers together send an engine as many requests as it runs at once: with more the line,
    its priorities and 429 would never come to it, with fewer the engine would not be full."""
    manifests = render(overlay)
    settings = manifests.settings()
    num_routers = manifests.one("Deployment", "r1-router")["spec"]["replicas"]
    share = settings.router.max_in_flight_per_replica
    assert share is not None
    assert num_routers * share == settings.engine.max_num_seqs
    num_engines = manifests.one("Deployment", "r1-engine")["spec"]["replicas"]
    assert settings.router.max_in_flight >= share * num_engines


@pytest.mark.parametrize("overlay", WITH_ENGINES)
def test_clients_reach_the_router(overlay: str) -> None:
    """Port 80 of the Service is the port that the settings open."""
    manifests = render(overlay)
    service = manifests.one("Service", "r1-router")["spec"]
    template = manifests.pod("r1-router")
    (port,) = service["ports"]
    assert (port["name"], port["port"]) == ("http", 80)
    assert selects(service["selector"], template["metadata"]["labels"])
    server = manifests.settings().server
    assert port_of(main_container(template), port["targetPort"]) == server.port
    assert server.host == "0.0.0.0"


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_commands_take_these_arguments(variant: str) -> None:
    """Each option there is one that the program knows."""
    for name, template in render(variant).pods():
        for container in containers(template):
            program, *arguments = container.get("command", [""])
            if program == "r1-serve":
                done = CliRunner().invoke(app, [*arguments, "--help"])
                assert done.exit_code == 0, f"{name}: {done.output}"
