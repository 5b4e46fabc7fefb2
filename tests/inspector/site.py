"""The inspector in a real browser, over a real service: requests, console, pictures."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.async_api import expect

from api.minting import ADMIN_KEY, SERVICE_KEY
from api.serving import served_beside
from participants import settings_for
from rehydrate.history import History
from waiting import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = PATIENCE_S * 1000
WIDE, NARROW = (1600, 1000), (400, 820)
MOST_BYTES = 200_000
SHOTS = Path(tempfile.gettempdir()) / "rehydrate-inspector"

_WATCH = """
window.broken = [];
document.addEventListener('securitypolicyviolation', (event) =>
    window.broken.push(`${event.violatedDirective} ${event.blockedURI}`));
"""

_WEIGHT = """
() => ['resource', 'navigation'].flatMap((type) => performance.getEntriesByType(type))
  .filter((entry) => /[/]ui([/#?]|$)/.test(entry.name))
  .reduce((sum, entry) => sum + entry.encodedBodySize, 0)
"""
_FILLED = """
() => {
  const panes = [...document.querySelectorAll('.pane')].map((e) => e.getBoundingClientRect().width);
  return !panes.length || panes.reduce((a, b) => a + b) === document.documentElement.clientWidth;
}
"""


class Site(NamedTuple):
    """The service at *url*; *history* publishes independently of it, as another process would."""

    url: str
    history: History
    server: object


@asynccontextmanager
async def site_over(database, server, **more):
    settings = settings_for(
        database,
        server,
        service_keys=SERVICE_KEY,
        admin_keys=ADMIN_KEY,
        **more,
    )
    async with History(settings) as history, served_beside(History(settings).app()) as url:
        yield Site(url, history, server)


class Visit:
    """The page of one test. It records errors and requests."""

    def __init__(self, page, url):
        self.page = page
        self.url = url
        self.problems = []
        self.allowed = ()
        self.requests = []
        page.on("pageerror", lambda error: self.problems.append(f"pageerror {error}"))
        page.on("console", self._said)
        page.on("requestfinished", self._asked)

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _asked(self, request):
        self.requests.append((request.method, request.url, request.timing["responseEnd"]))

    async def sign_in(self, key=ADMIN_KEY, at="/ui"):
        await self.page.goto(self.url + at)
        await self.page.get_by_label("Admin key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.get_by_role("navigation")).to_be_visible(timeout=PATIENCE_MS)

    async def open(self, place):
        await self.page.goto(f"{self.url}/ui{place}")

    async def sees(self, locator, **more):
        await expect(locator).to_be_visible(timeout=PATIENCE_MS, **more)

    async def reads(self, locator, text):
        await expect(locator).to_have_text(text, timeout=PATIENCE_MS)

    def message(self, message_id):
        return self.page.locator(f"[id='m-{message_id}']")

    async def shot(self, name, sizes=(WIDE, NARROW), schemes=("light", "dark")):
        """Take pictures of the page, for people to look at."""
        SHOTS.mkdir(exist_ok=True)
        before = self.page.viewport_size
        for width, height in sizes:
            await self.page.set_viewport_size({"width": width, "height": height})
            for scheme in schemes:
                await self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                await self.page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png")
                assert await self.page.evaluate(_FILLED), f"{name} leaves room at {width} px"
                spill = await self.page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert spill <= 0, f"{name} is {spill} px too wide at {width} px"
        await self.page.set_viewport_size(before)
        await self.page.emulate_media(color_scheme="light", reduced_motion="no-preference")

    async def check(self):
        """Assert that the policy blocked nothing, that there were no errors, and that the page is small."""
        await self._record()
        broken = await self.page.evaluate("window.broken")
        problems = [p for p in self.problems if not any(each in p for each in self.allowed)]
        assert not broken + problems, broken + problems
        assert all(url.startswith(self.url) for _, url, _ in self.requests), "asked elsewhere"
        assert not any(ADMIN_KEY in url for _, url, _ in self.requests), "the key is in an address"

    async def _record(self):
        """Save the time of each request, for people to look at, and assert the page's size."""
        SHOTS.mkdir(exist_ok=True)
        weight = await self.page.evaluate(_WEIGHT)
        assert weight <= MOST_BYTES
        lines = [
            f"{ms:9.1f} ms  {method:6} {url.removeprefix(self.url)}\n"
            for method, url, ms in sorted(self.requests, key=lambda each: -each[2])
            if "/stream" not in url  # which lasts for as long as it is read
        ]
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
        (SHOTS / f"{re.sub(r'[^a-z0-9_]+', '-', name)}.txt").write_text(
            f"{weight} bytes of page\n" + "".join(lines)
        )


@asynccontextmanager
async def visited(browser, url):
    context = await browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]})
    await context.add_init_script(_WATCH)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    visit = Visit(page, url)
    try:
        yield visit
        await visit.check()
    finally:
        await context.close()
