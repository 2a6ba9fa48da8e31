from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve.models.lock import locked
from serve.models.store import WORK


def test_who_comes_while_another_leaves_gets_its_turn(tmp_path: Path) -> None:
    """Leaving removes lock and directories under the next one's hands."""
    directory = tmp_path / "m"
    inside = most = 0

    def take_turns() -> None:
        nonlocal inside, most
        for _ in range(100):
            with locked(directory, lambda text: None) as work:
                inside += 1
                most = max(most, inside)
                (work / "part").touch()
                (work / "part").unlink()
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        for turns in [pool.submit(take_turns) for _ in range(4)]:
            turns.result(timeout=20)
    assert most == 1
    assert not directory.exists()


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    """It isn't waited for."""
    (tmp_path / WORK).touch()
    with pytest.raises(FileExistsError), locked(tmp_path, lambda text: None):
        pass


@pytest.mark.parametrize("below", [".", "m", "a/m"])
def test_a_link_to_a_volume_that_is_not_mounted_is_told(tmp_path: Path, below: str) -> None:
    """It isn't waited for either."""
    link = tmp_path / "models"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError), locked(link / below, lambda text: None):
        pass
