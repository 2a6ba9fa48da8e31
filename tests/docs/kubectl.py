"""`kubectl` for pages, where there is no cluster: options and verbs are those of the real one, the
objects, labels, containers and ports those of `k8s/`. What needs no cluster, it does."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from serve import __version__
from tests.docs.here import ROOT, Here, Wrong, is_placeholder, labelled, read_yaml

INSIDE = {"pod", "replicaset", "endpointslice", "node", "event", "secret", "persistentvolume"}
"""Kinds of objects that the cluster or the reader makes."""
SHORT = {
    "deploy": "deployment",
    "svc": "service",
    "po": "pod",
    "netpol": "networkpolicy",
    "networkpolicies": "networkpolicy",
    "pvc": "persistentvolumeclaim",
    "ns": "namespace",
}
VALUES = {
    *("-n", "--namespace", "-k", "--kustomize", "-f", "--filename", "-l", "--selector", "-o"),
    *("--output", "-c", "--container", "--tail", "--replicas", "--grace-period", "--from-file"),
    *("--from-literal", "--timeout", "--to-revision"),
}
"""Options whose value may be the next word. kubectl itself refuses those that it doesn't know."""
Inside = Callable[[list[str], Here], int]


@functools.cache
def objects() -> tuple[dict[str, Any], ...]:
    """All in `k8s/`, names as in its files, a Job's with the version."""
    return tuple(_read())


def _read() -> Iterator[dict[str, Any]]:
    for path in sorted((ROOT / "k8s").rglob("*.yaml")):
        for it in read_yaml(path):
            if it and "kind" in it and "name" in it.get("metadata", {}):
                yield it


def names_of(kind: str) -> set[str]:
    found = {it["metadata"]["name"] for it in objects() if it["kind"].lower() == kind}
    of_version = f"-{__version__.replace('.', '-')}"
    return found | {f"{name}{of_version}" for name in found if kind == "job"}


def labels() -> list[dict[str, str]]:
    """Those in the files, and those that controllers add."""
    found = [labels for it in objects() for labels in labelled(it)]
    for name in names_of("service"):
        found.append({"kubernetes.io/service-name": name})
    for name in names_of("raycluster"):
        for kind in ("head", "worker"):
            found.append({"ray.io/cluster": name, "ray.io/node-type": kind})
    return found


def kubectl(arguments: list[str], here: Here, inside: Inside) -> int:
    """Its exit status; `inside` is what runs a command in a container. Raises `Wrong`."""
    own, command = arguments, []
    if here.only_checks and own[-1] in VALUES:  # prose that leaves the rest to the reader
        own = own[:-1]
    if "--" in arguments:
        at = arguments.index("--")
        own, command = arguments[:at], arguments[at + 1 :]
    verbs = _parsed_by_itself(here, own)
    options, words = _words(own)
    words = words[len(verbs) :]
    for folder in options.get("-k", []):
        _run(here, "kustomize", str(here.file(folder)))
    if "--dry-run=client" in own:
        done = _run(here, *own)
        print(done, end="")
        return 0
    if options.get("-f") == ["-"]:
        _apply(sys.stdin.read())
    _check_scope(options)
    _check_objects(verbs, words)
    if verbs == ["exec"] and (command or not here.only_checks):
        return inside(command, here)
    if verbs == ["get"] and options.get("-o") == ["name"]:
        print("pod/of-the-page")
    return 0


def _parsed_by_itself(here: Here, own: list[str]) -> list[str]:
    """Its verbs, as the real one reads them: asked for help, it reads all options first."""
    filled = ["1" if word == "N" else word for word in own]
    told = _run(here, *filled, "--help")
    usage = re.search(r"^Usage:\n  kubectl((?: [a-z]+(?:-[a-z]+)*\b)+)", told, re.M)
    verbs = usage[1].split() if usage else []
    if "SUBCOMMAND" in told or verbs != _words(own)[1][: len(verbs)] or not verbs:
        raise Wrong(f"it has no command {' '.join(_words(own)[1][: len(verbs) + 1])}")
    return verbs


def _words(own: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    options: dict[str, list[str]] = {}
    words = []
    rest = list(own)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if word == "-" or not word.startswith("-"):
            words.append(word)
        elif given or name not in VALUES:
            options.setdefault(name, []).append(value)
        elif rest:
            options.setdefault(name, []).append(rest.pop(0))
    return options, words


def _run(here: Here, *arguments: str) -> str:
    """What the real one prints. Raises `Wrong` with what it complains of."""
    command = [shutil.which("kubectl", path=here.path) or "kubectl", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong((done.stderr or done.stdout).strip())
    return done.stdout


def _apply(text: str) -> None:
    for it in yaml.safe_load_all(text):
        if not it or not {"apiVersion", "kind", "metadata"} <= it.keys():
            raise Wrong("what it is given is no object of Kubernetes")


def _check_scope(options: dict[str, list[str]]) -> None:
    for name in options.get("-n", []):
        if name not in names_of("namespace"):
            raise Wrong(f"k8s/ has no namespace {name}")
    for selector in options.get("-l", []):
        wanted = dict(part.split("=", 1) for part in selector.split(","))
        if not any(wanted.items() <= found.items() for found in labels()):
            raise Wrong(f"nothing in k8s/ is labelled {selector}")
    known = str(objects())
    for name in options.get("-c", []):
        if f"'name': '{name}'" not in known:
            raise Wrong(f"no pod in k8s/ has a container {name}")


def _check_objects(verbs: list[str], words: list[str]) -> None:
    if verbs[0] in ("create", "config", "options", "explain", "cordon", "drain"):
        return
    if verbs[0] in ("logs", "exec", "port-forward"):
        words = [word if "/" in word else f"pod/{word}" for word in words[:1]] + words[1:]
    target = ""
    for word in words:
        if verbs == ["port-forward"] and re.fullmatch(r"\d+:\d+", word):
            _check_port(target, int(word.partition(":")[2]))
        elif "/" in word:
            target = word
            _check_object(*word.split("/", 1))
        elif not target:
            target = word
            for kind in word.split(","):
                _check_object(kind, None)
        else:
            _check_object(target, word)


def _check_object(kind: str, name: str | None) -> None:
    singular = SHORT.get(kind, kind.removesuffix("s"))
    known = {it["kind"].lower() for it in objects()} | INSIDE
    if singular not in known:
        raise Wrong(f"k8s/ has no {kind}")
    free = singular in INSIDE and (name is None or is_placeholder(name) or name == "of-the-page")
    if not free and name is not None and name not in names_of(singular):
        raise Wrong(f"k8s/ has no {kind} {name}")


def _check_port(target: str, port: int) -> None:
    kind, _, name = target.partition("/")
    singular = SHORT.get(kind, kind)
    (it,) = [
        it
        for it in objects()
        if (it["kind"].lower(), it["metadata"]["name"]) == (singular, name) and "spec" in it
    ][:1]
    if not re.search(rf"'(port|containerPort)': {port}\b", str(it)):
        raise Wrong(f"{target} has no port {port}")
