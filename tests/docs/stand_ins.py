"""Programs for the PATH of a page's shell. Each does what it is asked for where that is quick and
harmless; where it isn't, it looks whether it could be done, and refuses what could not.

`r1-serve` is the product. What would serve is started, over engines or stand-ins for vLLM, and
stopped once it serves; what takes minutes takes seconds. So long as the tests in the comments do it
in earnest, no more is needed here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer.main

from serve.cli import app
from serve.settings import EngineSettings, SettingsError, load_settings
from tests.docs.docker import docker
from tests.docs.here import ROOT, Here, Wrong, is_placeholder, split_options
from tests.docs.kubectl import kubectl

START_S = 60
WRONG = 64
"""The exit status for what can't be so (`EX_USAGE` of BSD's sysexits)."""
IN_CONTAINERS = "/etc/r1-serve/"


# --- r1-serve -----------------------------------------------------------------------------------


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and what it is told, as the real parser reads it. Raises `Wrong`."""
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    rest = list(arguments)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise Wrong(f"r1-serve {' '.join(names)} has no command {rest[:1]}")
        names.append(rest.pop(0))
        command = command.commands[names[-1]]
    try:
        context = command.make_context(names[-1], rest)
    except SystemExit:
        return " ".join(names), {}
    except Exception as exc:
        if not hasattr(exc, "format_message"):
            raise
        raise Wrong(f"r1-serve {' '.join(names)}: {exc.format_message()}") from exc
    return " ".join(names), context.params


def r1_serve(arguments: list[str], here: Here) -> int:
    """Its exit status. Raises `Wrong`."""
    if arguments == ["--help"]:
        return 0
    name, told = parsed(arguments)
    if here.only_checks or "--help" in arguments:
        return 0
    if name == "router":
        return _serves(arguments)
    if name == "up":
        if _settings_of(config := told["config"]).backend == "ray":
            return 0  # tests/test_fanout.py and tests/e2e/test_fanout.py start it
        return _serves([*_without(arguments, "--config"), "--config", _at_free_port(config)])
    if name == "engine":  # started in tests/conftest.py
        arguments = [*arguments, "--print-argv"]
    elif name in ("status", "scale", "restart"):
        arguments = [*_without(arguments, "--config", "--port"), "--config", here.stack]
    elif name == "bench run":  # minutes; in full in tests/e2e/test_bench.py
        arguments = _short(arguments, told, here)
    return _run(arguments)


def _short(arguments: list[str], told: dict[str, Any], here: Here) -> list[str]:
    """A second of a few requests, in place of the load that was asked for."""
    from benchmarks.loadtest.commands import _sweep

    loads: Any = {"concurrency": told["concurrency"], "rate": told["rates"], "batch": told["batch"]}
    try:
        _sweep(loads, (told["trace"], told["speed"]), told["search"])
    except SettingsError as exc:
        raise Wrong(str(exc)) from exc
    kept = _without(arguments, *(f"--{it}" for it in ("rates", "trace", "search", *loads)))
    kept += [] if told["url"] else ["--url", here.router]
    return [*kept, "--rates", "8", "--seconds", "1", "--warm-up", "0", "--repeats", "1"]


def _short(arguments: list[str], told: dict[str, Any], here: Here) -> list[str]:
    """A second of a few requests, in place of the load that was asked for."""
    from benchmarks.loadtest.commands import _sweep

    loads: Any = {"concurrency": told["concurrency"], "rate": told["rates"], "batch": told["batch"]}
    try:
        _sweep(loads, (told["trace"], told["speed"]), told["search"])
    except SettingsError as exc:
        raise Wrong(str(exc)) from exc
    kept = _without(arguments, "--concurrency", "--rates", "--batch", "--trace", "--search")
    kept += [] if told["url"] else ["--url", here.router]
    return [*kept, "--rates", "8", "--seconds", "1", "--warm-up", "0", "--repeats", "1"]


def _serves(arguments: list[str]) -> int:
    """Starts it at a free port, and ends it once it serves."""
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'fake_vllm'}"
    command = [sys.executable, "-m", "serve", *_without(arguments, "--port"), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        for line in process.stderr or ():
            sys.stderr.write(line)
            if found := re.search(r"Serving .* at (http://\S+)", line):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{found[1]}/no-such-path", timeout=5)
                process.send_signal(signal.SIGTERM)
        return process.wait(START_S)


def _settings_of(config: Path | None) -> EngineSettings:
    """Raises `Wrong` where it can't be read."""
    try:
        return load_settings(config, "cpu").engine
    except SettingsError as exc:
        raise Wrong(str(exc)) from exc


def _at_free_port(config: Path | None) -> str:
    """Settings like those, in a file beside them, for engines at free ports."""
    text = config.read_text(encoding="utf-8") if config else 'base = "auto"\n'
    changed = re.sub(r"^\[engine\]$", "[engine]\nport = 0", text, flags=re.M)
    path = (config or Path("up.toml")).with_suffix(".free.toml")
    path.write_text(changed if changed != text else f"{text}\n[engine]\nport = 0\n")
    return str(path)


def _without(arguments: list[str], *names: str) -> list[str]:
    """Those options left out, with their values."""
    text = shlex.join(arguments)
    return shlex.split(re.sub(rf"(?:^|(?<= ))(?:{'|'.join(names)})[ =]\S+", "", text))


def _run(arguments: list[str]) -> int:
    sys.argv = ["r1-serve", *arguments]
    try:
        app(arguments)
    except SystemExit as exc:
        status = int(exc.code or 0)
    if arguments[0] == "doctor" and status == 1:
        return 0  # it has found something here, which is its work
    return status


def in_container(arguments: list[str], here: Here) -> int:
    """What a container is told. Files that images and manifests put there are the checkout's."""
    words = arguments[arguments[:1] == ["r1-serve"] :]
    name, told = parsed(words)
    if name in ("status", "scale", "restart"):
        return r1_serve(words, here)
    config = str(told.get("config") or "")
    if config.startswith(IN_CONTAINERS):
        folders = (ROOT / "configs" / "docker", ROOT / "configs")
        files = [it / config.removeprefix(IN_CONTAINERS) for it in folders]
        found = next((it for it in files if it.exists()), None)
        if found is None:
            raise Wrong(f"no image and no manifest has {config}")
        _settings_of(found)
    return 0


# --- what installs, builds, measures ------------------------------------------------------------


def make(arguments: list[str], here: Here) -> int:
    """`serve` starts what its recipe starts; of others the recipe's commands can be read. Installs
    are tests/test_install.py's, and CI calls `lint`, `test` and `k8s-check`."""
    environment = os.environ | {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    done = subprocess.run(
        command, cwd=here.base, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Wrong(done.stderr.strip())
    for line in done.stdout.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().lstrip("@").removeprefix("exec "))
        if words[:1] == [".venv/bin/r1-serve"]:
            name, _ = parsed(words[1:])
            if name == "up" and (status := r1_serve(words[1:], here)):
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
    command = ["/usr/bin/curl", "--fail-with-body", "--max-time", "60", *arguments]
    return subprocess.run(command, check=False).returncode


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
        if found := shutil.which(name, path="/usr/local/bin:/usr/bin:/bin"):
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
