"""A real browser at the playground of a running router."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, Playwright, expect

from tests.support import program

TIMEOUT_MS = 15_000
expect.set_options(timeout=TIMEOUT_MS)


async def launched(playwright: Playwright) -> Browser:
    path = program("chromium", "chromium-browser", "google-chrome", package="chromium")
    # Chromium's own sandbox doesn't run as root, as in containers.
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    return await playwright.chromium.launch(executable_path=path, args=sandbox)


@contextlib.asynccontextmanager
async def visiting(
    browser: Browser, url: str, *, script: str = "", **context: Any
) -> AsyncIterator[Page]:
    """The playground in a profile of its own, in which `script` runs first. What it says on the
    console or throws, and what it asks of other hosts, fails the test."""
    complaints: list[str] = []
    opened = await browser.new_context(
        viewport=context.pop("viewport", {"width": 1280, "height": 800}),
        locale=context.pop("locale", "en-US"),
        **context,
    )
    await opened.add_init_script(script)
    page = await opened.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            message.type in ("error", "warning")
            and "Failed to load resource" not in message.text  # a status that the test wants
            and complaints.append(message.text)
        ),
    )
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("http", "ws"))
            and not request.url.startswith(url)
            and complaints.append(f"asked {request.url}")
        ),
    )
    await page.goto(f"{url}/ui/")
    try:
        yield page
        assert not complaints
    except BaseException as exc:
        exc.add_note(f"the page complained: {complaints}")
        raise
    finally:
        await opened.close()


async def ask(page: Page, text: str) -> None:
    """Sends a question as a visitor does; the reply may still be on its way."""
    await page.fill("#question", text)
    await page.wait_for_selector(".composer .round:enabled")
    await page.press("#question", "Enter")


async def answered(page: Page, count: int = 1) -> None:
    """So many replies are complete."""
    await page.wait_for_selector(f".turn.reply[aria-busy=false] >> nth={count - 1}")


async def saved(page: Page, act: Any, to: Path) -> str:
    """The text of the file that `act` lets the page save."""
    async with page.expect_download() as download:
        await act()
    await (await download.value).save_as(to)
    return await asyncio.to_thread(to.read_text)
