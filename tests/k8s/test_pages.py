"""What pages tell people to write into their own overlay can be rendered, and changes something."""

from __future__ import annotations

import itertools
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from serve.engine import OTLP_FLAG, engine_command, traced
from serve.settings import TelemetrySettings
from tests.k8s.manifests import (
    ROOT,
    Manifests,
    containers,
    env,
    main_container,
    overlay_of,
    render,
)
from tests.k8s.test_network import DOWNLOADER, ENGINE, OUTSIDE, allowed
from tests.k8s.test_settings import OFFICIAL_IMAGE

PAGES = ("kubernetes.md", "models.md")
Fragment = dict[str, Any]


def fragments(*kinds: str) -> list[Fragment]:
    """The parts of a kustomization in the pages that have one of these."""
    texts = [(ROOT / "docs" / page).read_text() for page in PAGES]
    blocks = [
        it for text in texts for it in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.M | re.S)
    ]
    return [it for it in map(yaml.safe_load, blocks) if set(kinds) & it.keys()]


PATCHES = [fragment["patches"] for fragment in fragments("patches")]


def patched(patches: list[Fragment]) -> Manifests:
    """Over `gpu` with an ingress."""
    return overlay_of(
        {
            "resources": ["../r1-serve/k8s/overlays/gpu"],
            "components": ["../r1-serve/k8s/components/ingress"],
            "patches": patches,
        }
    )


def patched_for(word: str) -> Manifests:
    """By the one block of patches with that word."""
    (patches,) = [it for it in PATCHES if word in str(it)]
    return patched(patches)


@pytest.mark.parametrize(
    "patch", [*itertools.chain(*PATCHES)], ids=lambda it: "-".join(it["target"].values())
)
def test_every_patch_finds_its_target_and_changes_it(patch: Fragment) -> None:
    """kustomize takes one whose target isn't there, and does nothing."""
    plain, changed = render("gpu+ingress"), patched([patch])
    assert len(changed.objects) == len(plain.objects)
    assert changed.objects != plain.objects


def test_engines_are_traced_as_settings_would_have_it() -> None:
    """To the port that they are let out to."""
    manifests = patched_for(OTLP_FLAG)
    settings = traced(
        manifests.settings().engine,
        TelemetrySettings(otlp_endpoint="http://collector.monitoring:4318"),
    )
    command = engine_command(settings, OFFICIAL_IMAGE, port=settings.port)
    engine = main_container(manifests.pod("r1-engine"))
    assert [*engine["command"], *engine["args"]] == ["vllm", *command.argv[3:]]
    assert command.env.items() <= env(engine).items()
    assert allowed(manifests, ENGINE, OUTSIDE, 4318)
    assert not allowed(manifests, ENGINE, OUTSIDE, 443)


def test_the_download_is_let_out_to_its_mirror_and_its_proxy() -> None:
    """Each at its own port."""
    manifests = patched_for("HF_ENDPOINT")
    given = main_container(manifests.pod("r1-model-downloader"))["env"]
    urls = [urlsplit(it["value"]) for it in given if "value" in it]
    assert urls
    for url in urls:
        assert allowed(manifests, DOWNLOADER, OUTSIDE, url.port or 443), url


def test_the_overlay_of_the_page_does_what_it_says() -> None:
    """Images from elsewhere, own settings, and a number of engines unless an autoscaler has it."""
    (fragment,) = fragments("resources")
    manifests = overlay_of(fragment)
    assert {it["newName"].split("/")[0] for it in fragment["images"]} == {"registry.internal"}
    for _, template in manifests.pods():
        for container in containers(template):
            assert container["image"].startswith("registry.internal/")
    assert manifests.settings_files().keys() == {"kubernetes.toml", "presets.toml"}
    engine = manifests.one("Deployment", "r1-engine")["spec"]
    assert bool(manifests.of("ScaledObject")) is ("replicas" not in engine)
    assert manifests.of("HTTPRoute")
    assert manifests.of("PodMonitor")
