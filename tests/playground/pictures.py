"""The pictures of the playground that README and docs/ show: `make screenshots`.

It starts `r1-serve up`, visits its page in Chromium and writes `docs/images/playground*.png`.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import httpx
from playwright.async_api import Browser, async_playwright

from serve.engine_process import free_port
from tests.conftest import ROOT, Program
from tests.playground.support import answered, ask, launched, visiting

IMAGES = ROOT / "docs" / "images"
READY_S = 300.0
CLIENTS, LOAD_S = 12, 40.0
CHAIN = "What is 63 - 18 + 57 - 40 + 22 - 35 + 71?"
SHARP = {"device_scale_factor": 1.5}


async def conversation(browser: Browser, url: str) -> None:
    async with visiting(browser, url, viewport={"width": 1200, "height": 740}, **SHARP) as page:
        await page.check("input[value=math]")
        await ask(page, "What is 47 + 85?")
        await answered(page)
        await ask(page, "Solve 3x + 7 = 22.")
        await answered(page, 2)
        await page.locator(".thinking summary").nth(1).click()
        await page.screenshot(path=IMAGES / "playground.png")


async def votes(browser: Browser, url: str) -> None:
    async with visiting(
        browser, url, viewport={"width": 1000, "height": 620}, color_scheme="dark", **SHARP
    ) as page:
        await page.get_by_label("Options").first.click()
        await page.check("input[value=vote]")
        await page.locator("#set-temperature").fill("1.4")
        await page.locator("#set-votes").fill("24")
        await page.keyboard.press("Escape")
        await ask(page, CHAIN)
        await answered(page)
        await page.screenshot(path=IMAGES / "playground-votes.png")


async def phone(browser: Browser, url: str) -> None:
    async with visiting(
        browser,
        url,
        viewport={"width": 360, "height": 640},
        locale="zh-CN",
        has_touch=True,
        is_mobile=True,
        **SHARP,
    ) as page:
        await page.tap(".welcome button >> nth=0")
        await answered(page)
        await page.tap(".thinking summary")
        await page.screenshot(path=IMAGES / "playground-phone.png")


async def fleet(browser: Browser, url: str) -> None:
    """Under a little load, so that there is something to see."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        visiting(browser, url, viewport={"width": 1400, "height": 600}, **SHARP) as page,
    ):
        await page.get_by_role("link", name="Fleet").click()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + LOAD_S

        async def client(number: int) -> None:
            await asyncio.sleep(number)
            while loop.time() < end_s:
                body = {
                    "messages": [{"role": "user", "content": f"What is {loop.time():.0f} + 85?"}]
                }
                await http.post("/v1/chat/completions", json=body)

        load = asyncio.gather(*(client(number) for number in range(CLIENTS)))
        await asyncio.sleep(LOAD_S - 4)
        await page.screenshot(path=IMAGES / "playground-fleet.png")
        await load


async def draw(program: Program, url: str) -> None:
    try:
        await asyncio.to_thread(program.wait_for, "Serving ", READY_S)
        async with async_playwright() as playwright:
            browser = await launched(playwright)
            for picture in (conversation, votes, phone, fleet):
                await picture(browser, url)
            await browser.close()
    finally:
        program.stop()


async def main() -> None:
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "pictures.toml"
        config.write_text('base = "auto"\n[engine]\nport = 0\n')
        program = Program("up", "--config", str(config), "--port", str(port))
        await draw(program, f"http://127.0.0.1:{port}")


if __name__ == "__main__":
    asyncio.run(main())
