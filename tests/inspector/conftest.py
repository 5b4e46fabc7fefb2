"""A browser, a service, and a page for every test."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from playwright.async_api import async_playwright

from inspector.site import CHROMIUM, site_over, visited
from localably import LocalAbly


@pytest.fixture(scope="session")
async def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield launched
        finally:
            await launched.close()


@pytest.fixture(scope="module")
async def site(browser, module_database):
    async with LocalAbly() as server, site_over(module_database, server) as opened:
        yield opened


@pytest.fixture
async def visit(browser, site):
    async with visited(browser, site.url) as page:
        yield page
