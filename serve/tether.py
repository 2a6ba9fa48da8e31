"""Ties an engine's life to its launcher's: a small program that becomes the engine.

    python -I -S serve/tether.py PROGRAM ARG…    with a pipe from the launcher as standard input

vLLM is several processes. When its server is killed, the engine core and its workers live on,
holding the GPU; when the launcher is killed, everything does (seen with 0.32). The kernel's
parent-death signal reaches the server only. So before turning into PROGRAM this forks a guard that

- sees the pipe end when the launcher is gone, however it went: asks the server to stop, and
- sees the server gone: kills what is left of its process group, itself included.

The launcher starts this as the leader of a new session: the group is the engine and nothing else.
Standard library only, and nothing of this package: it must start at once and stay small.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

POLL_S = 0.25
GRACE_S = 10.0
"""How long the server may take to stop once its launcher is gone; its clients went with it."""


def tethered(*argv: str) -> list[str]:
    """The command that runs `argv` so; the launcher gives it a pipe and a session of its own."""
    return [sys.executable, "-I", "-S", __file__, *argv]


def guard(server_pid: int, launcher: int) -> None:
    """Returns when the process group should be killed. `launcher` is the pipe's reading end."""
    while os.getppid() == server_pid:
        readable, _, _ = select.select([launcher], [], [], POLL_S)
        if readable and not os.read(launcher, 1):
            break
    deadline = time.monotonic() + GRACE_S
    if os.getppid() == server_pid:
        os.kill(server_pid, signal.SIGTERM)
    while os.getppid() == server_pid and time.monotonic() < deadline:
        time.sleep(POLL_S)


def main(argv: list[str]) -> None:
    server_pid = os.getpid()
    launcher = os.dup(0)  # not inherited by PROGRAM
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if os.fork() == 0:
        for stream in (1, 2):  # whoever reads the log sees it end with the server
            os.dup2(null, stream)
        for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        try:
            guard(server_pid, launcher)
        finally:
            os.killpg(0, signal.SIGKILL)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
