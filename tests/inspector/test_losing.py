"""The service becomes unreachable and comes back: the page reports it, and loses nothing."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import expect

from api.minting import ADMIN_KEY
from inspector.site import PATIENCE_MS, visited
from rehydrate import NewMessage
from tcp_proxy import TcpProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
async def proxy(site):
    async with TcpProxy(site.url) as between:
        yield between


@pytest.fixture
async def distant(browser, proxy):
    """A page whose connection to the service can be cut."""
    async with visited(browser, proxy.url.replace("@", "")) as visit:
        visit.allowed = ("ERR_", "Failed to load resource")  # the browser's own log
        yield visit


async def test_a_stream_resumes_after_a_disconnect_without_a_gap(distant, site, proxy):
    page, text = distant.page, ""
    async with site.history.respond("cut", "r") as response:
        response.write("before ")
        await distant.sign_in(at="/ui#/c/cut")
        message = distant.message("r")
        await expect(message.locator(".text")).to_have_text("before", timeout=PATIENCE_MS)
        await proxy.disconnect()
        state = page.locator(".connection")
        await expect(state).to_contain_text("retry in", timeout=PATIENCE_MS)
        await distant.shot("lost")
        for n in range(20):
            text += f"{n} "
            response.write(f"{n} ")
            await asyncio.sleep(0.02)
        await proxy.connect()
        await expect(state).to_have_text("Live", timeout=30_000)
        await distant.reads(message.locator(".text"), f"before {text}".strip())
        response.write("after")
        await distant.reads(message.locator(".text"), f"before {text}after")
    await expect(message.locator(".tag").first).to_have_text("Completed", timeout=PATIENCE_MS)


async def test_a_list_that_fails_to_load_can_be_retried(distant, site, proxy):
    await site.history.store_messages("there", [NewMessage("p", "user", text="Hello?")])
    await distant.sign_in()
    rows = distant.page.get_by_role("list", name="Conversations").get_by_role("link")
    await distant.sees(rows.filter(has_text="Hello?"))
    await proxy.disconnect()
    await distant.page.get_by_role("searchbox").fill("ther")
    alert = distant.page.get_by_role("alert")
    await expect(alert).to_contain_text("cannot be reached", timeout=PATIENCE_MS)
    await distant.shot("no-answer")
    await proxy.connect()
    await alert.get_by_role("button", name="Try again").click()
    await expect(alert).to_have_count(0, timeout=PATIENCE_MS)
    await distant.sees(rows.filter(has_text="Hello?"))


async def test_signing_in_reports_an_unreachable_service(distant, site, proxy):
    await distant.page.goto(distant.url + "/ui")
    await distant.sees(distant.page.get_by_role("heading", name="Inspector"))
    await proxy.disconnect()
    await distant.page.get_by_label("Admin key").fill(ADMIN_KEY)
    await distant.page.get_by_role("button", name="Sign in").click()
    alert = distant.page.get_by_role("alert")
    await expect(alert).to_contain_text("cannot be reached", timeout=PATIENCE_MS)
    await proxy.connect()
    await distant.page.get_by_role("button", name="Sign in").click()
    await distant.sees(distant.page.get_by_role("navigation"))
