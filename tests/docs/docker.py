"""`docker` for pages, where there is no daemon: files, arguments, images, services and profiles are
those of the Dockerfiles and compose.yaml, and what a container is told, r1-serve can read."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve import __version__
from tests.docs.here import ROOT, Here, Options, Wrong, is_placeholder, read_yaml, split_options

VALUES = {
    "build": {"-t", "--tag", "-f", "--file", "--build-arg"},
    "run": {
        *("-p", "--publish", "-v", "--volume", "-w", "--workdir", "-e", "--env", "--name"),
        *("--tmpfs", "--cap-drop", "--security-opt", "--stop-timeout", "--shm-size", "--gpus"),
        *("--entrypoint", "--network"),
    },
    "exec": {"-e", "-w"},
    "compose": {"--profile", "-f", "--file"},
    "up": set(),
    "logs": {"--tail"},
}
FLAGS = {
    "build": {"--pull", "--no-cache"},
    "run": {"--rm", "--read-only", "-it", "-i", "-t", "-d", "--detach", "--init"},
    "exec": {"-it"},
    "compose": set(),
    "up": {"--detach", "-d", "--build", "--wait"},
    "down": {"--volumes", "-v"},
    "logs": {"-f", "--follow"},
}
SUFFIXES = {"Dockerfile": "", "Dockerfile.cpu": "-cpu", "Dockerfile.gpu": "-gpu"}
Inside = Callable[[list[str], Here], int]


@functools.cache
def compose() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(ROOT / "compose.yaml")[0]
    return found


def bases() -> dict[str, str]:
    """The arguments that Dockerfiles begin from, and their defaults."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in SUFFIXES]
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", "\n".join(texts), re.M))


def docker(arguments: list[str], here: Here, inside: Inside) -> int:
    """Its exit status; `inside` runs what a container of ours is told. Raises `Wrong`."""
    verb, rest = (arguments or [""])[0], arguments[1:]
    if verb == "build":
        _build(rest, here)
    elif verb == "run":
        return _run(rest, here, inside)
    elif verb in ("tag", "push"):
        _named_ours(rest)
    elif verb == "compose":
        return _compose(rest, here, inside)
    elif verb == "buildx":
        if rest[:2] != ["imagetools", "inspect"] or set(rest[2:]) - set(bases().values()):
            raise Wrong(f"no Dockerfile begins from {rest[2:]}")
    elif verb != "exec" or (rest and not here.only_checks):
        raise Wrong(f"nothing here knows `docker {verb}`")
    return 0


def _build(arguments: list[str], here: Here) -> None:
    options, words = split_options(arguments, VALUES["build"], FLAGS["build"])
    if len(words) != 1:
        raise Wrong("`docker build` wants one folder")
    name = (options.get("-f") or ["Dockerfile"])[0]
    text = here.file(words[0]).joinpath(name).read_text(encoding="utf-8")
    for given in options.get("--build-arg", []):
        if f"ARG {given.partition('=')[0]}" not in text:
            raise Wrong(f"{name} has no argument {given}")
    wanted = f"r1-serve:{__version__}{SUFFIXES[name]}"
    if options.get("-t", [wanted]) != [wanted]:
        raise Wrong(f"manifests want the image of {name} as {wanted}, not {options['-t']}")


def _run(arguments: list[str], here: Here, inside: Inside) -> int:
    options, words = split_options(arguments, VALUES["run"], FLAGS["run"], until_word=True)
    ours = {f"r1-serve:{__version__}{suffix}" for suffix in SUFFIXES.values()}
    if not words or words[0] not in ours:
        raise Wrong(f"no Dockerfile makes the image {words[:1]}")
    _check_volumes(options, here)
    return inside(words[1:], here) if words[1:] else 0


def _named_ours(images: list[str]) -> None:
    """Under any registry's name."""
    ours = {f"r1-serve:{__version__}{suffix}" for suffix in SUFFIXES.values()}
    for it in images:
        if it.rpartition("/")[2] not in ours:
            raise Wrong(f"no Dockerfile makes the image {it}")


def _check_volumes(options: Options, here: Here) -> None:
    for volume in options.get("-v", []):
        source, _, target = volume.partition(":")
        if not target.startswith("/"):
            raise Wrong(f"{volume} has no place in the container")
        source = source.removeprefix("$PWD/")
        if "/" in source:
            here.file(str(Path(source)))


def _compose(arguments: list[str], here: Here, inside: Inside) -> int:
    options, words = split_options(arguments, VALUES["compose"], FLAGS["compose"], until_word=True)
    services = compose()["services"]
    profiles = {name for it in services.values() for name in it.get("profiles", ())}
    for name in options.get("--profile", []):
        if name not in profiles:
            raise Wrong(f"compose.yaml has no profile {name}")
    verb, rest = (words or [""])[0], words[1:]
    if verb not in ("build", "ps", "up", "down", "run", "logs", "restart", "exec", "stop"):
        raise Wrong(f"nothing here knows `docker compose {verb}`")
    flags = FLAGS.get(verb, set())
    runs = verb in ("run", "exec")
    _, named = split_options(rest, VALUES.get(verb, set()), flags, until_word=runs)
    for name in named[:1] if runs else named:
        if name not in services and not is_placeholder(name):
            raise Wrong(f"compose.yaml has no service {name}")
    if runs and named[1:]:
        return inside([*services[named[0]].get("entrypoint", [])[1:], *named[1:]], here)
    return 0
