from __future__ import annotations

import resource
from collections.abc import Iterator

import psutil
import pytest

from serve.file_limit import attainable
from tests.conftest import Program

FEW = 256


@pytest.fixture
def few_files() -> Iterator[None]:
    """What is started meanwhile may open few files, until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_router_takes_the_files_that_it_may_have(workers: int) -> None:
    """Each of its processes that serve, started with the small soft limit of a shell."""
    assert attainable() > FEW
    program = Program(
        *("router", "--engine-url", "http://127.0.0.1:9", "--port", "0", "--workers", str(workers))
    )
    try:
        program.wait_for("Serving ", 20)
        process = psutil.Process(program.process.pid)
        serving = process.children() if workers > 1 else [process]
        limits = [it.rlimit(psutil.RLIMIT_NOFILE)[0] for it in serving]
        assert len(limits) == workers
        assert set(limits) == {attainable()}
        assert program.stop() == 0
    finally:
        program.close()
