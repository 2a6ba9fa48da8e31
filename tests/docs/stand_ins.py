"""Programs for the PATH of a page's shell. Each does what it is asked for where that is quick and
harmless; where it isn't, it looks whether it could be done, and refuses what could not."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.docs.docker import docker
from tests.docs.here import ROOT, Here, Wrong, is_placeholder, split_options
from tests.docs.kubectl import kubectl

WRONG = 64
"""The exit status for what can't be so (`EX_USAGE` of BSD's sysexits)."""
IN_CONTAINERS = "/etc/r1-serve/"


# --- what installs, builds, measures ------------------------------------------------------------


def make(arguments: list[str], here: Here) -> int:
    """`serve` starts what its recipe starts; of others the recipe's commands can be read. Installs
    are tests/test_install.py's, and CI calls `lint`, `test` and `k8s-check`."""
    # Nothing of a make that runs these tests: it hands its own variables down.
    environment = {"PATH": here.path, "HOME": os.environ["HOME"]}
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    done = subprocess.run(
        command, cwd=here.base, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Wrong(done.stderr.strip())
    for line in done.stdout.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().lstrip("@").removeprefix("exec "))
        if words[:1] == [".venv/bin/r1-serve"]:
            here = replace(here, only_checks=here.only_checks or words[1] != "up")
            if status := r1_serve(words[1:], here):
                return status
        elif words[:2] == [".venv/bin/python", "-m"] and words[2].startswith("benchmarks."):
            python_is_parsed(*words[1:])
    return 0


PARSES = """
import argparse, runpy, sys
real = argparse.ArgumentParser.parse_args
def parse_args(self, *given, **named):
    real(self, *given, **named)
    sys.exit(0)
argparse.ArgumentParser.parse_args = parse_args
sys.path.insert(0, {root!r})
kind, name, sys.argv = sys.argv[1], sys.argv[2], sys.argv[2:]
if kind == "-m":
    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(name, run_name="__main__")
"""


@functools.cache
def python_is_parsed(*arguments: str) -> int:
    """A module or script runs until it has read its command line: benchmarks take minutes."""
    words = ["1" if is_placeholder(word) else word for word in arguments]
    given = words if words[0] == "-m" else ["", *words]
    command = [sys.executable, "-P", "-c", PARSES.format(root=str(ROOT)), *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(done.stderr.strip().rpartition("\n")[2])
    return 0


def python(arguments: list[str], here: Here) -> int:
    if arguments[:2] == ["-m", "serve"]:
        return r1_serve(arguments[2:], here)
    if arguments[:2] == ["-m", "venv"]:
        return 0
    if here.only_checks or arguments[0] == "-m":
        return python_is_parsed(*arguments)
    return subprocess.run([sys.executable, *arguments], check=False).returncode


def pip(arguments: list[str], here: Here) -> int:
    """Nothing is installed: ours has such an extra, and others are among what is pinned."""
    if arguments[:1] != ["install"]:
        raise Wrong(f"nothing here knows `pip {' '.join(arguments)}`")
    _, words = split_options(arguments[1:], {"-r", "-e"}, {"-U", "--upgrade", "--no-deps", "-q"})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = "\n".join(it.read_text() for it in (ROOT / "requirements").glob("*.txt")).lower()
    for word in words:
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?.*", word).groups() or ("", "")
        if name in (".", project["name"]):
            unknown = set(filter(None, (extras or "").split(","))) - set(
                project["optional-dependencies"]
            )
            if unknown:
                raise Wrong(f"there is no extra {unknown}")
        elif not re.search(rf"^{re.escape(name.lower())}==", lists, re.M):
            raise Wrong(f"no list in requirements/ has {name}")
    return 0


def git(arguments: list[str], here: Here) -> int:
    """`clone` gives the checkout; the others take words that git knows."""
    verb, words = arguments[0], [it for it in arguments[1:] if not it.startswith("-")]
    if verb == "clone":
        folder = Path(words[1] if words[1:] else re.sub(r"\.git$", "", words[0].split("/")[-1]))
        shutil.copytree(here.checkout, folder, symlinks=True)
    elif verb not in ("pull", "checkout"):
        raise Wrong(f"nothing here knows `git {verb}`")
    return 0


# --- other machines, other hardware -------------------------------------------------------------


def ssh(arguments: list[str], here: Here) -> int:
    """Runs the command here; what lies below the root of the other machine is in a folder."""
    words = [re.sub(r"^/", f"{here.far}/", word) for word in arguments[1:]]
    return subprocess.run(words, check=False).returncode


def rsync(arguments: list[str], here: Here) -> int:
    _, words = split_options(arguments, set(), {"-a", "-av", "--archive"})
    source, target = words
    if not source.endswith("/") or ":" not in target:
        raise Wrong("a folder's content to another machine is all that is known here")
    shutil.copytree(source, f"{here.far}{target.partition(':')[2]}", dirs_exist_ok=True)
    return 0


def nvidia_smi(arguments: list[str], here: Here) -> int:
    """It has the fields that `r1-serve doctor` asks for."""
    from serve.doctor.gpus import _CARD_FIELDS, _PROCESS_FIELDS

    known = {*_CARD_FIELDS.split(","), *_PROCESS_FIELDS.split(",")}
    queries = ("--query-compute-apps", "--query-gpu")
    options, _ = split_options(arguments, {*queries, "--format"}, set())
    for fields in (options.get(query, []) for query in queries):
        if unknown := set(",".join(fields).split(",")) - known - {""}:
            raise Wrong(f"no field {unknown} is known here")
    return 0


def ray(arguments: list[str], here: Here) -> int:
    """Its own parser reads the command line; clusters are started in tests/cluster."""
    import click
    from ray.scripts.scripts import cli

    command, rest = cli, list(arguments)
    try:
        while isinstance(command, click.Group):
            _, found, rest = command.resolve_command(click.Context(command), rest)
            assert found is not None
            command = found
        command.make_context("ray", rest)
    except click.ClickException as exc:
        raise Wrong(f"ray: {exc.format_message()}") from exc
    return 0


def curl(arguments: list[str], here: Here) -> int:
    """The real one; a reply that is an error fails."""
    command = [
        shutil.which("curl", path=here.path) or "",
        "--fail-with-body",
        "--max-time",
        "60",
        *arguments,
    ]
    return subprocess.run(command, check=False).returncode


def r1_serve(arguments: list[str], here: Here) -> int:
    """Imported late: few of the others need it, and it takes longer than what they do."""
    from tests.docs import product

    return product.r1_serve(arguments, here)


def in_container(arguments: list[str], here: Here) -> int:
    from tests.docs import product

    return product.in_container(arguments, here)


Program = Callable[[list[str], Here], int]
PROGRAMS: dict[str, Program] = {
    "curl": curl,
    "docker": lambda arguments, here: docker(arguments, here, in_container),
    "git": git,
    "kubectl": lambda arguments, here: kubectl(arguments, here, in_container),
    "make": make,
    "nvidia-smi": nvidia_smi,
    "pip": pip,
    "python": python,
    "python3": python,
    "r1-serve": r1_serve,
    "ray": ray,
    "rsync": rsync,
    "ssh": ssh,
}
REAL = (
    *("awk", "basename", "bash", "cat", "cp", "cut", "date", "dd", "dirname", "env", "grep"),
    *("head", "jq", "ls", "mkdir", "mktemp", "mv", "promtool", "rm", "sed", "seq", "sh", "sleep"),
    *("sort", "tail", "tee", "test", "touch", "tr", "truncate", "uniq", "wc", "xargs"),
)
"""What else is on the PATH. A program that is neither here nor above isn't found."""


def install(folder: Path) -> None:
    """Makes `folder` the PATH of a page's shell."""
    folder.mkdir()
    for name in PROGRAMS:
        path = folder / name
        path.write_text(
            f"#!{sys.executable} -P\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from tests.docs.stand_ins import main\n"
            f"sys.exit(main({name!r}, sys.argv[1:]))\n"
        )
        path.chmod(0o755)
    for name in REAL:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)


def main(name: str, arguments: list[str]) -> int:
    here = Here.of_environment()
    try:
        return PROGRAMS[name](arguments, here)
    except Wrong as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        with open(here.report, "a", encoding="utf-8") as file:
            file.write(shlex.join([name, *arguments]) + "\n")
        return WRONG
