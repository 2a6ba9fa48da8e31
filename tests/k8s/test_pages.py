"""What pages tell people to write into their own overlay can be rendered, and changes something."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import ROOT, containers, overlay_of, render

PAGES = ("kubernetes.md", "models.md")
Fragment = dict[str, Any]


def fragments(*kinds: str) -> list[Fragment]:
    """The parts of a kustomization in the pages that have one of these."""
    texts = [(ROOT / "docs" / page).read_text() for page in PAGES]
    blocks = [
        it for text in texts for it in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.M | re.S)
    ]
    return [it for it in map(yaml.safe_load, blocks) if set(kinds) & it.keys()]


@pytest.mark.parametrize(
    "fragment", fragments("patches"), ids=lambda it: it["patches"][0]["target"]
)
def test_every_patch_finds_its_target_and_changes_it(fragment: Fragment) -> None:
    """kustomize takes one whose target isn't there, and does nothing."""
    plain = render("gpu+ingress")
    for patch in fragment["patches"]:
        patched = overlay_of(
            {
                "resources": ["../r1-serve/k8s/overlays/gpu"],
                "components": ["../r1-serve/k8s/components/ingress"],
                "patches": [patch],
            }
        )
        assert len(patched.objects) == len(plain.objects)
        assert patched.objects != plain.objects, patch["target"]


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
