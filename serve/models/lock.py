"""One pull of a directory at a time, over all processes and machines that share its file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from serve.models.store import WORK

LOCK = "lock"
Tell = Callable[[str], None]


@contextlib.contextmanager
def locked(directory: Path, tell: Tell) -> Iterator[Path]:
    """Makes the directory and gives the one in it to work in; of both, what is empty at the end is
    removed. Says so where it has to wait. Raises `OSError`.

    The lock is a file, since NFS locks no directories, and it goes with the work: who has waited
    for one that is gone tries again.
    """
    work = directory / WORK
    path = work / LOCK
    descriptor = _acquired(work, path, tell)
    try:
        yield work
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty
            work.rmdir()
            directory.rmdir()


def _acquired(work: Path, path: Path, tell: Tell) -> int:
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed by who was before us
            continue
        except FileExistsError as exc:  # or it was there, and gone at the second look
            if os.path.lexists(exc.filename) and not os.path.isdir(exc.filename):
                raise
            continue
        try:
            _lock(descriptor, tell)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, tell: Tell) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("Another pull of this model is under way; waiting for it.")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as exc:
        tell(f"This file system has no locks ({exc.strerror}); going on without.")
