"""The chat's page in a real browser: several answers at once, reloaded, in two tabs, stopped."""

from __future__ import annotations

import itertools
import shutil
from contextlib import asynccontextmanager

import pytest

from chat_backend.app import ABLY_JS
from scripted_openai.model import answer_text, output_text
from waiting import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUESTIONS = ("What is the weather in Lisbon?", "Why do streams break?", "What is a seam?")
SLOWLY_S, QUICKLY_S = 0.2, 0.002
PATIENCE_MS = PATIENCE_S * 1000

ARTICLES = """() => Object.fromEntries([...document.querySelectorAll('article')].map((each) => [
  each.dataset.id,
  [each.dataset.role, each.dataset.status ?? 'completed', each.querySelector('.text').textContent],
]))"""
STREAMING = """(count) => [...document.querySelectorAll('article[data-status=in_progress] .text')]
  .filter((text) => text.textContent.length > 10).length >= count"""
ENDED = """(count) => document.querySelectorAll('article[data-role=assistant]').length === count
  && !document.querySelector('article[data-status=in_progress]')"""


@asynccontextmanager
async def browser():
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    async with playwright.async_playwright() as p:
        launched = await p.chromium.launch(executable_path=CHROMIUM)
        try:
            yield launched
        finally:
            await launched.close()


async def opened(visitor, url, problems):
    page = await visitor.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    await page.goto(url)
    await page.locator("#state[data-state=live]").wait_for()
    return page


async def shown_and_true(visitor, url, page):
    """Return role, status and text of each message by id, and the results of its tool calls."""
    conversation = await page.evaluate("fetch('/me').then((me) => me.json())")
    answer = await visitor.request.get(
        f"{url}/history/v1/conversations/{conversation['owner']}-main"
    )
    messages = (await answer.json())["messages"]
    shown = {m["id"]: [m["role"], m["status"], m["text"]] for m in messages}
    outputs = {
        m["prompt_id"]: tuple(
            output_text(p["result"]) for p in m["parts"] if p["type"] == "tool_call"
        )
        for m in messages
    }
    prompts = {m["id"]: m["text"] for m in messages if m["role"] == "user"}
    true = {
        m["id"]: answer_text(prompts[m["prompt_id"]], outputs[m["prompt_id"]])
        for m in messages
        if m["role"] == "assistant"
    }
    return shown, true


@pytest.mark.slow
@pytest.mark.parametrize("by", ["sse", "ably"])
@pytest.mark.parametrize(
    "api",
    [
        pytest.param("responses", marks=pytest.mark.chat(api="responses")),
        pytest.param("assistants", marks=pytest.mark.chat(api="assistants")),
    ],
)
async def test_every_tab_shows_the_exact_text(chat, api, by):
    if by == "ably" and not ABLY_JS.is_file():
        pytest.skip("ably-js is not installed: npm ci in tests/js")
    model, problems = chat.model.endpoint, []
    model.pace_s = SLOWLY_S
    at_once = 3 if api == "responses" else 1  # a thread has one run at a time
    async with browser() as chromium:
        visitor = await chromium.new_context()
        first = await opened(visitor, f"{chat.url}/?by={by}", problems)
        for question in QUESTIONS:
            await first.locator("#text").fill(question)
            await first.keyboard.press("Enter")
        await first.locator("article[data-role=assistant]").nth(2).wait_for()
        await first.wait_for_function(STREAMING, arg=at_once)
        await first.reload()
        await first.wait_for_function(STREAMING, arg=at_once)
        second = await opened(visitor, f"{chat.url}/?by=sse", problems)
        await second.wait_for_function(STREAMING, arg=at_once)
        speaking = "article[data-status=in_progress]:has(.text:not(:empty))"
        stopped = second.locator(speaking).first
        stopped_id = await stopped.get_attribute("data-id")
        await stopped.get_by_role("button", name="Stop").click()
        for tab in (first, second):
            cancelled = tab.locator(f'article[data-id="{stopped_id}"][data-status=cancelled]')
            await cancelled.wait_for()
        model.pace_s = QUICKLY_S
        for tab in (first, second):
            await tab.wait_for_function(ENDED, arg=3)
        shown, true = await shown_and_true(visitor, chat.url, first)
        third = await opened(visitor, f"{chat.url}/?by={by}", problems)
        await third.wait_for_function(ENDED, arg=3)
        for tab in (first, second, third):
            assert await tab.evaluate(ARTICLES) == shown
    assert problems == []
    assert len(shown) == 6
    for id_, (role, status, text) in shown.items():
        if role == "assistant" and id_ != stopped_id:
            assert (status, text) == ("completed", true[id_])
    role, status, text = shown[stopped_id]
    assert (role, status) == ("assistant", "cancelled")
    assert 0 < len(text) < len(true[stopped_id])
    assert true[stopped_id].startswith(text)


@pytest.mark.slow
async def test_a_refused_prompt_is_reported_and_stays_in_the_form(chat):
    async with browser() as chromium:
        visitor = await chromium.new_context()
        page = await opened(visitor, chat.url, [])
        await page.route("**/prompts", lambda route: route.fulfill(status=503, body="{}"))
        await page.locator("#text").fill("Why?")
        await page.keyboard.press("Enter")
        await page.get_by_role("alert").get_by_text("503").wait_for()
        assert await page.locator("#text").input_value() == "Why?"
        await page.unroute("**/prompts")
        await page.get_by_role("button", name="Ask").click()
        await page.wait_for_function(ENDED, arg=1)
        assert not await page.get_by_role("alert").is_visible()


@pytest.mark.slow
async def test_nothing_is_cut_off_on_small_and_large_screens(chat):
    async with browser() as chromium:
        page = await opened(await chromium.new_context(), chat.url, [])
        await page.get_by_role("button", name="All three at once").click()
        await page.wait_for_function(ENDED, arg=3)
        grounds = set()
        for width, scheme in itertools.product((400, 1200), ("light", "dark")):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.emulate_media(color_scheme=scheme)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert (await page.locator("header").bounding_box())["height"] < 64
            composer = await page.locator("#composer").bounding_box()
            assert composer["y"] + composer["height"] <= 800
            grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2, "light and dark"
