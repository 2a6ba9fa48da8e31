"""`r1-serve` for pages: the product, but what would serve is stopped once it serves, over stand-ins
for vLLM or over the test's engine, and what takes minutes takes seconds.

The tests named in comments do it in earnest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import typer.main

from serve.cli import app
from serve.settings import EngineSettings, SettingsError, load_settings
from tests.docs.here import ROOT, Here, Wrong

START_S = 60
IN_CONTAINERS = "/etc/r1-serve/"


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
    if name == "chat" and told["question"] is None and not _is_piped():
        return _chats(arguments[1:], here)
    if name == "engine":  # started in tests/conftest.py
        arguments = [*arguments, "--print-argv"]
    elif name in ("status", "scale", "restart"):
        arguments = [*_without(arguments, "--config", "--port"), "--config", here.stack]
    elif name == "bench run":  # minutes; in full in tests/e2e/test_bench.py
        arguments = _short(arguments, told, here)
    elif "url" in told and "--url" not in arguments:  # the usual one
        arguments = [*arguments, "--url", here.router]
    return _run(arguments)


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


def _is_piped() -> bool:
    """Whether anything may come from standard input."""
    return not stat.S_ISCHR(os.fstat(0).st_mode)


def _chats(arguments: list[str], here: Here) -> int:
    """A person at a terminal, with one question; tests/terminal has more."""
    from tests.terminal.terminal import CTRL_D, chatting

    with chatting(Path.home(), here.router, *arguments) as terminal:
        terminal.wait_for("/help")
        terminal.say("What is 47 + 85?")
        terminal.wait_for("132[^$]*answer [0-9]+ ")
        terminal.type(CTRL_D)
        return terminal.ended()


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
