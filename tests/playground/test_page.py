"""The playground's files as the router hands them out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from playwright.async_api import Browser

from serve.playground import PAGE
from serve.presets import read_presets
from serve.router import build_app
from serve.settings import RouterSettings, ServerSettings, Settings
from tests.conftest import ROOT
from tests.playground.support import visiting
from tests.support import program, running_router

NOWHERE = RouterSettings(engine_urls=["http://127.0.0.1:9"])


def client(server: ServerSettings | None = None) -> httpx.AsyncClient:
    app = build_app(Settings(router=NOWHERE, server=server or ServerSettings()))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router")


async def test_the_page_and_everything_it_names_is_served_without_an_engine() -> None:
    async with client() as http:
        for path in ("/ui/", "/docs"):
            page = await http.get(path)
            assert page.headers["content-type"].startswith("text/html")
            for name in re.findall(r'(?:src|href)="([^".][^"]*)"', page.text):
                assert (await http.get(urljoin(path, name))).status_code == 200, name
        script = await http.get("/ui/main.js")
        assert script.headers["content-type"].startswith("text/javascript")


async def test_what_the_modules_import_exists() -> None:
    for module in PAGE.rglob("*.js"):
        if module.parent.name != "vendor":
            for name in re.findall(r'from "(\.[^"]+)"', module.read_text()):
                assert (module.parent / name).is_file(), f"{module.name}: {name}"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/ui"])
async def test_the_entrances_lead_to_the_page_behind_any_prefix(path: str, method: str) -> None:
    async with client() as http:
        reply = await http.request(method, path)
    assert (reply.status_code, reply.headers["location"]) == (307, "ui/")


@pytest.mark.parametrize("path", ["/ui/", "/docs"])
async def test_the_page_may_run_and_ask_nothing_of_others(path: str) -> None:
    async with client() as http:
        headers = (await http.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_has_not_changed_is_not_sent_again() -> None:
    async with client() as http:
        first = await http.get("/ui/vendor/vendor.js")
        again = await http.get(
            "/ui/vendor/vendor.js", headers={"if-none-match": first.headers["etag"]}
        )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/ui/nothing.js", "/ui/../settings.py", "/ui/..%2f..%2fsettings.py", "/ui/vendor"]
)
async def test_nothing_else_is_served(path: str) -> None:
    async with client() as http:
        reply = await http.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


async def test_the_page_needs_no_key_and_what_it_asks_for_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    async with client(ServerSettings(keys_file=str(keys))) as http:
        assert (await http.get("/ui/main.js")).status_code == 200
        assert (await http.get("/")).status_code == 307
        assert (await http.get("/v1/presets")).status_code == 401
        assert (await http.get("/uix")).status_code == 401


async def test_it_can_be_switched_off() -> None:
    async with client(ServerSettings(playground=False)) as http:
        assert (await http.get("/ui/")).status_code == 404
        assert (await http.get("/")).status_code == 404
        assert (await http.get("/docs")).status_code == 404


def test_the_openapi_document_is_of_the_api_alone() -> None:
    app = build_app(Settings(router=NOWHERE))
    assert not [path for path in app.openapi()["paths"] if path.startswith(("/ui", "/docs"))]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_description_of_the_api_shows_and_tries_it_with_nothing_from_elsewhere(
    browser: Browser,
) -> None:
    async with (
        running_router("http://127.0.0.1:9", wait_ready=False) as router,
        visiting(browser, router.url) as page,
    ):
        await page.goto(f"{router.url}/docs")
        await page.click("[id$=presets_v1_presets_get] .opblock-summary-control")
        await page.click(".try-out__btn")
        await page.click(".execute")
        await page.wait_for_selector(".live-responses-table :text('math')")


def test_shipped_presets_are_described_in_chinese_too() -> None:
    words = (PAGE / "words" / "zh.js").read_text()
    for preset in read_presets(RouterSettings()).presets.values():
        assert preset.description.replace("\\", "\\\\") in words


def test_the_pure_modules_do_what_their_tests_say() -> None:
    node = program("node", package="nodejs")
    done = subprocess.run(
        [node, "--test", str(Path(__file__).parent)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass [1-9]", done.stdout, re.M)
