"""Finding the `r1-serve up` to signal."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil
import pytest

from serve.running import NotRunning, Running, find, registered


def test_found_while_it_runs_and_not_after(tmp_path: Path) -> None:
    """By its port, or by being the only one; the directory is made where it is missing."""
    directory = tmp_path / "logs"
    with registered(directory, 8000, directory / "control"):
        assert find(directory).pid == os.getpid()
        assert find(directory, 8000).pid == os.getpid()
        with pytest.raises(NotRunning, match="with port 8001"):
            find(directory, 8001)
    with pytest.raises(NotRunning, match=str(directory)):
        find(directory)


def test_a_file_that_outlived_its_process_is_not_believed(tmp_path: Path) -> None:
    """A pid may be another program's by now, which a signal would kill."""
    started_at = psutil.Process().create_time() - 100
    stale = Running(pid=os.getpid(), started_at=started_at, port=8000, control="")
    (tmp_path / "up-1.json").write_bytes(msgspec.json.encode(stale))
    (tmp_path / "up-2.json").write_text("no json")
    with pytest.raises(NotRunning):
        find(tmp_path)


def test_several_must_be_told_apart(tmp_path: Path) -> None:
    """By their ports, which the error names."""
    started_at = psutil.Process().create_time()
    for port in (8000, 8001):
        running = Running(pid=os.getpid(), started_at=started_at, port=port, control="")
        (tmp_path / f"up-{port}.json").write_bytes(msgspec.json.encode(running))
    with pytest.raises(NotRunning, match="--port") as failure:
        find(tmp_path)
    assert "8000" in str(failure.value)
    assert "8001" in str(failure.value)
    assert find(tmp_path, 8001).port == 8001
