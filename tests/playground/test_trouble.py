"""The playground with text that the demo model doesn't write, and where an engine or the server is
full, slow or gone: over the stand-in engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from benchmarks.stand_in import Options, StandInEngine
from tests.playground.support import answered, ask, visiting
from tests.support import RunningRouter, eventually, running_router
from tests.test_router_admission import guarded, make_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITTEN = r"""A *list*:

- one
- two

| a | b |
|---|--:|
| 1 | 2 |

Inline \(x^2\) and $y_1$, but $5 and $6 are money.

\[ \frac{1}{2} \]

```python
def double(x): return 2 * x
```

<img src="http://127.0.0.1:9/leak.png"><script>document.title = "run"</script>
[link](data:text/html,run)
![seen](http://127.0.0.1:9/leak.png)"""


def scripted(answer: str, think: str = "hm") -> str:
    return "script:" + json.dumps({"think": think, "answer": answer})


@contextlib.asynccontextmanager
async def standing_in(**options: float) -> AsyncIterator[tuple[StandInEngine, RunningRouter]]:
    async with (
        StandInEngine(Options(**{"step_ms": 1, "prefill_ms": 0} | options)) as engine,
        running_router(engine.url) as router,
    ):
        yield engine, router


async def test_answers_are_shown_as_they_are_meant_and_run_nothing(browser: Browser) -> None:
    async with standing_in() as (_, router), visiting(browser, router.url) as page:
        await ask(page, scripted(WRITTEN))
        await answered(page)
        text = page.locator(".turn.reply .text")
        await expect(text.locator("li")).to_have_count(2)
        await expect(text.locator("td")).to_have_count(2)
        await expect(text.locator(".katex")).to_have_count(3)
        await expect(text.locator(".katex-display")).to_have_count(1)
        await expect(text).to_contain_text("$5 and $6 are money")
        await expect(text.locator(".hljs-keyword").first).to_have_text("def")
        await expect(text).to_contain_text("<script>")
        await expect(text.locator("script, img")).to_have_count(0)
        assert await page.title() != "run"
        assert await text.get_by_text("link").get_attribute("href") is None


async def test_what_is_nested_too_deep_is_shown_as_it_is(browser: Browser) -> None:
    formula = "$" + "{" * 2500 + "$"
    async with standing_in() as (_, router), visiting(browser, router.url) as page:
        await ask(page, scripted(formula))
        await answered(page)
        await expect(page.locator(".turn.reply .plain")).to_have_text(formula)


async def test_who_reads_the_thinking_further_up_is_left_there(browser: Browser) -> None:
    """While it grows, and when the answer begins."""
    long = "".join(f"Step {number}.\n\n" for number in range(60))
    async with standing_in() as (_, router), visiting(browser, router.url) as page:
        await ask(page, scripted("It is 4.", think=long * 3))
        trace = page.locator(".trace")
        await expect(trace).to_contain_text("Step 50.")
        await trace.hover()
        await page.mouse.wheel(0, -200)
        await eventually(lambda: trace.evaluate("it => it.scrollHeight - it.scrollTop > 500"))
        await answered(page)
        assert await trace.evaluate("it => it.scrollHeight - it.scrollTop > 500")


async def test_another_tab_sees_a_reply_grow_and_waits_for_it(browser: Browser) -> None:
    async with standing_in(step_ms=4) as (_, router), visiting(browser, router.url) as page:
        await ask(page, scripted("It is 4. " * 40))
        other = await page.context.new_page()
        await other.goto(f"{router.url}/ui/")
        await other.click(".entry .open")
        await other.fill("#question", "And?")
        await expect(other.locator(".composer .round")).to_be_disabled()
        await expect(other.locator(".remark")).to_have_count(0)
        await answered(page)
        await expect(other.locator(".composer .round")).to_be_enabled()
        await expect(other.locator(".turn.reply .text")).to_contain_text("It is 4. It is 4.")


async def test_another_tab_names_and_ends_what_this_one_writes(browser: Browser) -> None:
    async with standing_in(step_ms=4) as (engine, router), visiting(browser, router.url) as page:
        await ask(page, scripted("It is 4. " * 400))
        other = await page.context.new_page()
        await other.goto(f"{router.url}/ui/")
        entry, there = page.locator(".entry"), other.locator(".entry")
        other.once("dialog", lambda dialog: dialog.accept("fours"))
        await there.locator("summary").click()
        await there.get_by_text("Rename").click()
        await expect(entry).to_contain_text("fours")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator(".remark")).to_have_text("Stopped.")
        await page.reload()
        await expect(entry).to_contain_text("fours")

        await entry.locator(".open").click()
        await page.get_by_role("button", name="Answer again").click()
        await eventually(lambda: router.router.gate.num_in_flight == 1)
        other.once("dialog", lambda dialog: dialog.accept())
        await there.locator("summary").click()
        await there.get_by_text("Delete").click()
        await expect(entry).to_have_count(0)
        await eventually(lambda: engine.counters.aborted == 2)
        await page.reload()
        await expect(page.locator(".welcome")).to_be_visible()
        await expect(entry).to_have_count(0)


async def test_a_full_server_says_when_and_takes_the_question_then(browser: Browser) -> None:
    async with (
        StandInEngine(Options(step_ms=5, prefill_ms=0)) as engine,
        running_router(engine.url, max_in_flight=1, max_queued=0) as router,
        visiting(browser, router.url) as page,
    ):
        async with router.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": scripted("x" * 300)}], "stream": True},
        ):
            await ask(page, scripted("It is 4."))
            await expect(page.locator(".remark")).to_contain_text("The server is full")
        await answered(page)
        await expect(page.locator(".turn.reply .text")).to_have_text("It is 4.")


async def test_an_engine_that_is_down_is_waited_for(browser: Browser) -> None:
    async with standing_in() as (engine, router), visiting(browser, router.url) as page:
        await page.wait_for_selector(".welcome button:enabled")
        await engine.stop()
        await eventually(lambda: not router.router.replicas.ready)
        await ask(page, scripted("It is 4."))
        await expect(page.locator(".remark")).to_contain_text("No engine can take the question")
        async with StandInEngine(Options(step_ms=1), port=engine.port):
            await expect(page.locator(".turn.reply .text")).to_have_text("It is 4.")
            await page.reload()
            await expect(page.locator(".notice")).to_have_count(0)


async def test_a_server_that_is_gone_is_told_kindly(browser: Browser) -> None:
    async with standing_in() as (_, router), visiting(browser, router.url) as page:
        await page.wait_for_selector(".welcome button:enabled")
        await page.context.set_offline(True)
        await ask(page, scripted("It is 4."))
        await answered(page)
        await expect(page.locator(".failure")).to_contain_text("can't be reached")
        await expect(page.locator(".notice")).to_contain_text("Trying again")
        await page.context.set_offline(False)
        await expect(page.locator(".notice")).to_have_count(0)
        await page.locator(".failure").get_by_text("Try again").click()
        await expect(page.locator(".turn.reply .text")).to_have_text("It is 4.")


async def test_without_storage_it_chats_and_says_so(browser: Browser) -> None:
    """As in private windows of some browsers."""
    without = 'Object.defineProperty(window, "indexedDB", {value: undefined})'
    async with standing_in() as (_, router), visiting(browser, router.url, script=without) as page:
        await expect(page.locator(".notice")).to_contain_text("keeps nothing here")
        await ask(page, scripted("It is 4."))
        await answered(page)
        await expect(page.locator(".turn.reply .text")).to_have_text("It is 4.")
        await expect(page.locator(".entry")).to_have_count(1)


async def test_a_key_is_asked_for_and_stays_in_the_visit(browser: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = make_key(keys, "visitor")
    async with (
        StandInEngine(Options(step_ms=1)) as engine,
        guarded(engine, keys, key) as router,
        visiting(browser, router.url) as page,
    ):
        dialog = page.locator("dialog")
        await expect(dialog).to_be_visible()
        await dialog.locator("input[name=key]").fill(key)
        await page.keyboard.press("Enter")
        await ask(page, scripted("It is 4."))
        await answered(page)
        await expect(page.locator(".turn.reply .text")).to_have_text("It is 4.")
        assert key not in await page.evaluate("JSON.stringify(localStorage)")
        await page.reload()
        await expect(page.locator(".chip")).to_have_text("chat")
        await expect(dialog).to_have_count(0)
