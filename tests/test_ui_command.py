from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve.engine_process import free_port
from serve.settings import ServerSettings
from tests.support import running_router


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """One that keeps what it is asked to open, in `.opened` beside it."""
    path = tmp_path / "browser"
    path.write_text(f'#!/bin/sh\necho "$1" > {path}.opened\n')
    path.chmod(0o755)
    return path


async def ui(url: str, browser: Path, **environment: str) -> tuple[int, str]:
    """Exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serve", "ui", "--url", url),
        env=os.environ | {"BROWSER": str(browser)} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The URL of something that sends `answer` to whoever asks."""

    async def answer_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answer_it, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def test_it_opens_the_page_of_a_running_server(browser: Path) -> None:
    async with running_router("http://127.0.0.1:9", wait_ready=False) as router:
        status, said = await ui(router.url, browser)
    assert (status, said) == (0, f"The playground is at {router.url}/ui/\n")
    opened = browser.with_suffix(".opened")
    assert await asyncio.to_thread(opened.read_text) == f"{router.url}/ui/\n"


async def test_without_a_server_it_says_how_to_start_one(browser: Path) -> None:
    status, said = await ui(f"http://127.0.0.1:{free_port('127.0.0.1')}", browser)
    assert status == 2
    assert "r1-serve up" in said


async def test_a_server_without_the_page_is_told_apart(browser: Path) -> None:
    server = ServerSettings(port=0, playground=False)
    async with running_router("http://127.0.0.1:9", server=server, wait_ready=False) as router:
        status, said = await ui(router.url, browser)
    assert status == 2
    assert "server.playground" in said


async def test_other_answers_are_told_as_they_are(browser: Path) -> None:
    async with answering(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n") as url:
        status, said = await ui(url, browser)
    assert status == 2
    assert "answers 503 Service Unavailable" in said
    assert "server.playground" not in said


async def test_what_speaks_no_http_is_told_in_a_line(browser: Path) -> None:
    async with answering(b"220 mail.example ESMTP\r\n") as url:
        status, said = await ui(url, browser)
    assert status == 2
    assert "isn't an HTTP server" in said
    assert "Traceback" not in said


async def test_this_machine_is_asked_past_any_proxy(browser: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    async with running_router("http://127.0.0.1:9", wait_ready=False) as router:
        status, said = await ui(router.url, browser, http_proxy=nobody, no_proxy="")
    assert (status, said) == (0, f"The playground is at {router.url}/ui/\n")
