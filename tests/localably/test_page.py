"""The page, in a real browser if one is installed."""

from __future__ import annotations

import shutil

import pytest

from waiting import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


async def test_the_root_is_a_page_that_loads_nothing_from_other_hosts(http):
    async with http.get("/") as answer:
        assert answer.content_type == "text/html"
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
        text = await answer.text()
    assert "https://" not in text
    assert http.headers["Authorization"] not in text


async def test_a_browser_shows_channels_as_they_come_and_go(server, clients):
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    client = await clients.realtime()
    await client.channels.get("mutable:room <b>").attach()
    await client.channels.get("mutable:room <b>").publish("n", "x")
    async with playwright.async_playwright() as p:
        browser = await p.chromium.launch(executable_path=CHROMIUM)
        try:
            page = await browser.new_page()
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
            await page.goto(server.url)
            row = page.get_by_role("row", name="mutable:room <b>")
            await row.wait_for(timeout=PATIENCE_S * 1000)
            assert (await row.locator("td").all_inner_texts())[1:4] == ["1", "1", "1"]
            await client.channels.get("another").attach()
            server.faults.set("freeze", count=0)
            await page.get_by_role("row", name="another").wait_for(timeout=PATIENCE_S * 1000)
            await page.get_by_text("freeze").first.wait_for(timeout=PATIENCE_S * 1000)
            assert str(server.port) in await page.locator("#javascript").inner_text()
            assert server.key.split(":")[1] not in await page.content()
            assert problems == []
        finally:
            server.faults.clear()
            await browser.close()
