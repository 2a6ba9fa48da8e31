"""The playground as a visitor uses it, in a real browser, over the real engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.conftest import RunningEngine
from tests.playground.support import answered, ask, saved, visiting
from tests.support import RunningRouter, eventually, running_router

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.engine]

CHAIN = "What is 63 - 18 + 57 - 40 + 22 - 35 + 71?"
NARROW = {"width": 360, "height": 740}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(engine: RunningEngine) -> AsyncIterator[RunningRouter]:
    async with running_router(engine.url) as router:
        yield router


async def test_a_first_visit_comes_to_an_answer(browser: Browser, router: RunningRouter) -> None:
    """An example is asked; its thinking is folded away when the answer comes, and can be read."""
    async with visiting(browser, router.url) as page:
        await page.click("text=What is 47 + 85?")
        await answered(page)
        await expect(page.locator(".turn.reply .text .katex-html")).to_have_text("132")
        summary = page.locator(".thinking summary")
        await expect(summary).to_contain_text("Thought for")
        await expect(page.locator(".trace")).to_have_count(0)
        await summary.click()
        await expect(page.locator(".trace")).to_contain_text("tens:")
        await expect(page.locator(".figures")).to_contain_text("chat · 79 tokens")


async def test_a_conversation_goes_on_and_is_kept_over_a_reload(
    browser: Browser, router: RunningRouter
) -> None:
    async with visiting(browser, router.url) as page:
        await ask(page, "What is 47 + 85?")
        await answered(page)
        await ask(page, "Solve 3x + 7 = 22.")
        await answered(page, 2)
        await page.reload()
        await page.click(".entry .open")
        await expect(page.locator(".turn.user")).to_have_count(2)
        await expect(page.locator(".turn.reply .katex-html").nth(1)).to_have_text("5")
        await expect(page.locator(".bar h1")).to_have_text("What is 47 + 85?")


async def test_a_preset_and_what_is_changed_of_it_reach_the_server(
    browser: Browser, router: RunningRouter
) -> None:
    async with visiting(browser, router.url) as page:
        await page.check("input[value=grade]")
        await expect(page.locator("#set-temperature")).to_be_disabled()
        await page.check("input[value=math]")
        await page.locator("#set-temperature").fill("0.3")
        await expect(page.locator(".chip")).to_have_text("math *")
        async with page.expect_request("**/chat/completions") as sent:
            await ask(page, "What is 47 + 85?")
        body = (await sent.value).post_data_json
        assert (body["preset"], body["temperature"]) == ("math", 0.3)
        assert "top_p" not in body
        await answered(page)
        await expect(page.locator(".figures")).to_contain_text("math")
        await page.get_by_label("Back to the preset's: Temperature").click()
        await expect(page.locator(".chip")).to_have_text("math")


async def test_votes_are_tallied(browser: Browser, router: RunningRouter) -> None:
    async with visiting(browser, router.url) as page:
        await page.check("input[value=vote]")
        await ask(page, CHAIN)
        await answered(page)
        tally = page.locator(".votes")
        await expect(tally).to_contain_text("of at most 8 votes counted")
        await expect(tally.locator("li").first).to_contain_text("120")
        await expect(page.locator(".turn.reply .text .katex-html")).to_have_text("120")


async def test_stop_ends_the_generation_and_the_question_can_be_asked_again(
    browser: Browser, router: RunningRouter
) -> None:
    """Sixty-four votes at a high temperature take a while."""
    async with visiting(browser, router.url) as page:
        await page.check("input[value=vote]")
        for field, value in (("temperature", "2"), ("votes", "64")):
            await page.locator(f"#set-{field}").fill(value)
        await ask(page, CHAIN)
        await page.wait_for_selector(".votes li")
        await page.keyboard.press("Escape")
        await answered(page)
        await expect(page.locator(".remark")).to_have_text("Stopped.")
        await eventually(lambda: router.router.gate.num_in_flight == 0)

        await page.check("input[value=math]")
        await page.get_by_label("Answer again").click()
        await expect(page.locator(".variants")).to_contain_text("2 of 2")
        await expect(page.locator(".turn.reply .text")).to_contain_text("The answer is")
        await page.get_by_label("Previous answer").click()
        await expect(page.locator(".remark")).to_have_text("Stopped.")


async def test_a_question_can_be_put_otherwise(browser: Browser, router: RunningRouter) -> None:
    async with visiting(browser, router.url) as page:
        await ask(page, "What is 47 + 85?")
        await answered(page)
        await page.get_by_label("Edit", exact=True).click()
        await page.get_by_label("Edit the question").fill("What is 47 + 86?")
        await page.locator(".editing").get_by_text("Send").click()
        await expect(page.locator(".turn.reply .text .katex-html")).to_have_text("133")
        await expect(page.locator(".turn")).to_have_count(2)


async def test_history_is_searched_renamed_exported_imported_and_deleted(
    browser: Browser, router: RunningRouter, tmp_path: Path
) -> None:
    async with visiting(browser, router.url) as page:
        for text in ("What is 47 + 85?", "Solve 3x + 7 = 22."):
            await page.get_by_role("button", name="New chat").click()
            await ask(page, text)
            await answered(page)
        entries = page.locator(".entry")
        await page.get_by_placeholder("Search conversations").fill("carry 1")
        await expect(entries).to_have_count(1)
        await expect(entries).to_contain_text("What is 47 + 85?")
        await page.get_by_placeholder("Search conversations").fill("")

        page.once("dialog", lambda dialog: dialog.accept("my equation"))
        await entries.first.locator("summary").click()
        await entries.first.get_by_text("Rename").click()
        await expect(entries.first).to_contain_text("my equation")

        file = tmp_path / "all.json"
        text = await saved(page, page.get_by_role("button", name="Export all").click, file)
        assert [it["title"] for it in json.loads(text)["conversations"]] == [
            "my equation",
            "What is 47 + 85?",
        ]
        await entries.first.locator("summary").click()
        act = entries.first.get_by_text("Export as Markdown").click
        assert "<summary>Thinking</summary>" in await saved(page, act, tmp_path / "one.md")

        page.once("dialog", lambda dialog: dialog.accept())
        await entries.first.locator("summary").click()
        await entries.first.get_by_text("Delete").click()
        await expect(entries).to_have_count(1)
        await page.locator("input[type=file]").set_input_files(file)
        await expect(entries).to_have_count(3)
        await page.locator("input[type=file]").set_input_files(
            {"name": "bad.json", "mimeType": "application/json", "buffer": b"{}"}
        )
        await expect(page.locator(".foot")).to_contain_text("bad.json can't be imported")


async def test_it_is_used_with_the_keyboard_alone(browser: Browser, router: RunningRouter) -> None:
    async with visiting(browser, router.url, viewport=NARROW) as page:
        await page.wait_for_selector(".welcome button:enabled")
        await page.locator(".skip").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#question")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator(".options").get_by_label("Close")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Escape")
        await expect(page.locator(".options")).to_have_count(0)
        await expect(page.locator(".chip")).to_be_focused()
        await expect(page.locator(".chip")).to_have_text("math")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.type("What is")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("47 + 85?")
        await page.keyboard.press("Enter")
        await answered(page)
        await expect(page.locator(".bubble")).to_have_text("What is\n47 + 85?")
        await expect(page.locator(".unseen[role=status]")).to_have_text("The answer is complete.")


async def test_on_a_phone_nothing_is_cut_off(browser: Browser, router: RunningRouter) -> None:
    phone = {"viewport": NARROW, "has_touch": True, "is_mobile": True, "locale": "zh-CN"}
    async with visiting(browser, router.url, color_scheme="dark", **phone) as page:
        await expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        await page.tap(".welcome button >> nth=0")
        await answered(page)
        await expect(page.locator(".turn.reply .text .katex-html")).to_have_text("8")
        await page.get_by_label("菜单").tap()
        await expect(page.locator(".sidebar")).to_be_in_viewport()
        await page.get_by_text("集群").tap()
        await expect(page.locator("[data-figure=replicas]")).to_contain_text("1 / 1")
        assert await page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


async def test_the_fleet_page_is_live(browser: Browser, router: RunningRouter) -> None:
    async with visiting(browser, router.url) as page:
        await page.get_by_role("link", name="Fleet").click()
        await expect(page.locator(".fleet table")).to_contain_text("ready")
        rate = page.locator("[data-figure=tokenRate] dd").first
        await expect(rate).not_to_have_text("–")
        before = await rate.text_content()
        await router.chat("What is 47 + 85?")
        await expect(rate).not_to_have_text(before or "")
        await expect(page.locator("[data-figure=ttft]")).to_contain_text("ms")
