"""k8s/: what every overlay and every added component has in common."""

from __future__ import annotations

import re

import pytest

from serve import __version__
from tests.k8s.manifests import COMPONENTS, K8S, OVERLAYS, ROOT, VARIANTS, containers, render

CLUSTER_WIDE = {"Namespace"}
PLACEHOLDER = re.compile(
    r"<[A-Za-z_ -]+>|\$\{|CHANGE.?ME|REPLACE|TODO|FIXME|XXX|\b(your|my)-|example\.(com|org)"
)


def pinned(package: str, requirements: str) -> str:
    text = (ROOT / "requirements" / f"{requirements}.txt").read_text()
    found = re.search(rf"^{package}==(\S+)", text, re.M)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_is_in_one_namespace(variant: str) -> None:
    """Which the overlay makes, at the strictest level of pod security."""
    manifests = render(variant)
    (namespace,) = manifests.of("Namespace")
    labels = namespace["metadata"]["labels"]
    assert namespace["metadata"]["name"] == "r1-serve"
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for it in manifests.objects:
        if it["kind"] not in CLUSTER_WIDE:
            assert it["metadata"]["namespace"] == "r1-serve", it["metadata"]["name"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_says_that_it_is_ours(variant: str) -> None:
    """`kubectl get all -l app.kubernetes.io/name=r1-serve` shows what we put there."""
    for it in render(variant).objects:
        if not it["metadata"]["name"].startswith("r1-serve-") or it["kind"] != "ConfigMap":
            named = it["metadata"].get("labels", {}).get("app.kubernetes.io/name")
            assert named == "r1-serve" or it["kind"] == "ConfigMap", it["metadata"]["name"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_images_are_this_version_and_the_pinned_vllm(variant: str) -> None:
    """The engines' is vLLM's own, of the version that is read and tested here."""
    ours = {f"r1-serve:{__version__}{kind}" for kind in ("", "-cpu", "-gpu")}
    vllm = f"vllm/vllm-openai:v{pinned('vllm', 'gpu')}"
    for name, template in render(variant).pods():
        for container in containers(template):
            assert container["image"] in {*ours, vllm}, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_secret_is_part_of_it(variant: str) -> None:
    """Keys and certificates are the user's."""
    assert not render(variant).of("Secret")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_changed_setting_rolls_the_pods_that_read_it(overlay: str) -> None:
    """By the hash in the ConfigMap's name. Not on Ray: KubeRay wouldn't, and `r1-serve restart`
    reads the file where it was."""
    (name,) = [it["metadata"]["name"] for it in render(overlay).of("ConfigMap")]
    if overlay == "gpu-ray":
        assert name == "r1-serve"
        return
    assert re.fullmatch(r"r1-serve-[a-z0-9]{10}", name)
    router = render(overlay).pod("r1-router")
    assert name in {it.get("configMap", {}).get("name") for it in router["spec"]["volumes"]}


def test_nothing_has_to_be_filled_in() -> None:
    """What is in the repository can be applied as it is."""
    for path in K8S.rglob("*.yaml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not PLACEHOLDER.search(line), f"{path}:{number}: {line}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_opens_with_its_reason(component: str) -> None:
    """One line that says why it exists."""
    text = (K8S / "components" / component / "kustomization.yaml").read_text()
    assert text.startswith("# Why: ")
    assert "\nkind: Component\n" in text
