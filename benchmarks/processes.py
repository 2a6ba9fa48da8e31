"""Child processes of a benchmark: start, wait for an answer, CPU time and memory, end.

Each is started by this module and ended by its own process id. Linux only for the CPU figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1


class NotReadyError(RuntimeError):
    """A process ended, or did not answer in time; the message ends with its last output."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _end_with_parent() -> None:
    """In the child: SIGTERM when the benchmark dies without cleaning up (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since start and resident bytes, over a process and its descendants."""

    cpu_s: float
    rss_bytes: int


class Child:
    """One started process with its descendants; its output goes to `log`."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None):
        self.log = log
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.pid = self._popen.pid

    def wait_ready(self, url: str, timeout_s: float = 60.0) -> None:
        """Returns once `url` answers 200; raises `NotReadyError`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._popen.poll() is not None:
                raise NotReadyError(f"ended with {self._popen.returncode}: {self._last_words()}")
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(url, timeout=2) as reply,
            ):
                if reply.status == 200:
                    return
            time.sleep(0.1)
        raise NotReadyError(f"no answer at {url} in {timeout_s:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[-500:]

    def tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def usage(self) -> Usage:
        """Now; ended children count through their parent's own accounting."""
        cpu_s, rss_bytes = 0.0, 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s += times.user + times.system + times.children_user + times.children_system
                rss_bytes += process.memory_info().rss
        return Usage(cpu_s, rss_bytes)

    def stop(self, grace_s: float = 3.0) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its tree after `grace_s`."""
        tree = self.tree()
        with contextlib.suppress(psutil.NoSuchProcess):
            if tree:
                tree[0].terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace_s)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait()
