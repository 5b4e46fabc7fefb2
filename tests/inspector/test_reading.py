"""Signing in, finding a conversation, reading it live, timelines."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import expect

from api.minting import ADMIN_KEY, SERVICE_KEY
from inspector.site import PATIENCE_MS
from rehydrate import NewMessage
from rehydrate.ports import Outgoing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STORY = "The tide turns twice a day, and nobody has to ask it why. 潮は満ち引き。 "


def expect_count(locator, count):
    return expect(locator).to_have_count(count, timeout=PATIENCE_MS)


async def publish_message(site, conversation, name, data=None, **headers):
    """Publish one channel message, as another program would."""
    channel = await site.history.channel_of(conversation)
    id_ = f"{conversation}-{headers.get('responseId')}-{headers.get('seq')}-{name}"
    await site.history._channel.publish(channel, [Outgoing(name, data, id_, {"headers": headers})])


async def test_a_wrong_key_is_refused_and_an_admin_key_accepted(visit):
    page = visit.page
    visit.allowed = ("401", "403")  # the browser itself logs them
    await page.goto(visit.url + "/ui")
    await visit.sees(page.get_by_role("heading", name="Inspector"))
    await visit.shot("sign-in")
    for key, told in (("nobody's", "Unknown key"), (SERVICE_KEY, "not an admin key")):
        await page.get_by_label("Admin key").fill(key)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text(told, timeout=PATIENCE_MS)
    await page.get_by_label("Admin key").fill(ADMIN_KEY)
    await page.get_by_label("Admin key").press("Enter")
    await visit.sees(page.get_by_role("navigation"))
    await page.reload()
    await visit.sees(page.get_by_role("navigation"))
    await page.get_by_role("button", name="Sign out").click()
    await visit.sees(page.get_by_role("heading", name="Inspector"))
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_revoked_key_leads_to_the_sign_in_form(visit, site):
    await visit.sign_in()
    visit.allowed = ("401",)
    await visit.page.evaluate("sessionStorage.setItem('rehydrate.key', 'revoked')")
    await visit.page.reload()
    alert = visit.page.get_by_role("alert")
    await expect(alert).to_contain_text("no longer accepted", timeout=PATIENCE_MS)
    await visit.page.get_by_label("Admin key").fill(ADMIN_KEY)
    await visit.page.get_by_role("button", name="Sign in").click()
    await visit.sees(visit.page.get_by_role("navigation"))


async def test_conversations_are_searched_opened_and_closed_by_keyboard(visit, site):
    for n in range(60):
        text = f"What about number {n}?"
        await site.history.store_messages(f"find-{n:02}", [NewMessage("p", "user", text=text)])
    await site.history.store_messages("other", [NewMessage("p", "user", text="Another matter")])
    await visit.sign_in()
    rows = visit.page.get_by_role("list", name="Conversations").get_by_role("link")
    await expect_count(rows, 50)
    await rows.last.scroll_into_view_if_needed()
    await expect_count(rows, 61)  # the second page comes by itself
    await visit.shot("list")
    await visit.page.keyboard.press("/")
    await visit.page.keyboard.type("find-4")
    await expect_count(rows, 10)
    await visit.page.keyboard.press("ArrowDown")
    await visit.page.keyboard.press("ArrowDown")
    await visit.page.keyboard.press("Enter")
    await visit.sees(visit.page.get_by_role("heading", name="find-41"))
    await visit.reads(visit.message("p").locator(".text"), "What about number 41?")
    await visit.page.get_by_role("searchbox").fill("nothing like it")
    await visit.sees(visit.page.get_by_text("No matches"))
    await visit.shot("not-found")


async def test_three_streams_are_exact_across_a_reload(visit, site):
    conversation = "three at once"
    await site.history.store_messages(
        conversation,
        [
            NewMessage("p-0", "user", text="Tell me of the sea."),
            NewMessage("r-0", "assistant", text=STORY * 6, prompt_id="p-0"),
            NewMessage("p-1", "user", text="And now three more, please, at once."),
        ],
    )
    texts = {f"r-{n}": f"{n}: " + STORY * 4 for n in (1, 2, 3)}
    opened, refreshed = asyncio.Event(), asyncio.Event()

    async def stream(response_id):
        words = re.findall(r"\S+\s*", texts[response_id])
        async with site.history.respond(conversation, response_id, prompt_id="p-1") as response:
            for n, word in enumerate(words):
                if n in (8, len(words) - 8):  # however slow the browser is, it sees some live
                    await (opened if n == 8 else refreshed).wait()
                response.write(word)
                await asyncio.sleep(0.03)

    streams = [asyncio.create_task(stream(response_id)) for response_id in texts]
    await visit.sign_in(at="/ui#/c/three%20at%20once")
    for response_id in texts:
        await expect(visit.message(response_id).locator(".text")).not_to_be_empty(
            timeout=PATIENCE_MS
        )
    opened.set()
    row = visit.page.get_by_role("link", name="three at once")
    await expect(row).to_contain_text("3", timeout=PATIENCE_MS)
    await visit.page.get_by_text("Streaming", exact=True).first.click()
    rows = visit.page.get_by_role("list", name="Conversations").get_by_role("link")
    await expect_count(rows, 1)
    await visit.message("r-2").get_by_role("link", name="Timeline").click()
    timeline = visit.page.get_by_role("complementary", name="Timeline of a message")
    await visit.sees(timeline.locator("svg"))
    await expect(timeline).to_contain_text("held", timeout=PATIENCE_MS)
    await expect(timeline.locator("path.line.live")).to_have_count(1, timeout=PATIENCE_MS)
    await visit.shot("streaming")
    await visit.page.reload()
    await visit.sees(visit.message("r-3"))
    refreshed.set()
    await asyncio.gather(*streams)
    for response_id, text in texts.items():
        message = visit.message(response_id)
        await expect(message.locator(".tag").first).to_have_text("Completed", timeout=PATIENCE_MS)
        assert await message.locator(".text").evaluate("e => e.textContent") == text
    await expect(timeline).to_contain_text("the stop was published", timeout=PATIENCE_MS)
    # every character has a source, and the last words were received live
    sources = timeline.locator(".legend .num")
    whole = str(len(texts["r-2"]))
    await expect(timeline.locator("figcaption")).to_contain_text(whole, timeout=PATIENCE_MS)
    database, history, live = map(int, await sources.all_inner_texts())
    assert database + history + live == len(texts["r-2"])
    assert live > 0
    await visit.shot("three-at-once")
    await visit.page.keyboard.press("Escape")
    await expect(timeline).to_have_count(0)
    await visit.shot("conversation")


async def test_parts_are_collapsed_and_gaps_shown_in_place(visit, site):
    conversation = "parts/&?#%"
    await publish_message(
        site, conversation, "user-input", {"promptId": "p", "text": "What is the weather?"}
    )
    said = {"responseId": "r"}
    await publish_message(site, conversation, "start", **said, seq=0, promptId="p")
    await publish_message(
        site, conversation, "reasoning", "They want the weather, so I look.", **said, seq=1
    )
    call = {"name": "look", "args": {"city": "Faro"}}
    await publish_message(site, conversation, "tool_call", call, **said, seq=2, toolCallId="t")
    await publish_message(site, conversation, "tool_result", {"name": "look", "result": {"sky": "clear"}},
              **said, seq=3, toolCallId="t")  # fmt: skip
    await publish_message(site, conversation, "token", "Clear 🌤 ", **said, seq=4)
    await publish_message(site, conversation, "token", "and warm, they say.", **said, seq=8)
    await publish_message(
        site, conversation, "stop", **said, seq=9, status="failed", error="upstream <b>gone</b>"
    )
    await visit.sign_in(at="/ui#/c/parts%2F%26%3F%23%25")
    message = visit.message("r")
    await visit.sees(message.get_by_text("Clear 🌤"))
    await expect(message.get_by_text("They want the weather")).to_be_hidden()
    await message.get_by_text("Reasoning").click()
    await visit.sees(message.get_by_text("They want the weather"))
    await message.get_by_text("Tool call").click()
    await visit.sees(message.get_by_text('"sky": "clear"'))
    gap = message.get_by_role("img", name="3 events missing: seq 5 to 7")
    await visit.sees(gap)
    text = await message.locator(".part").last.locator(".text").evaluate("e => e.textContent")
    assert text == "Clear 🌤 5–7 missingand warm, they say."
    await expect(message).to_contain_text("Error: upstream <b>gone</b>", timeout=PATIENCE_MS)
    await visit.message("r").get_by_role("link", name="Timeline").click()
    await visit.sees(visit.page.locator("svg rect.hole"))
    await visit.shot("parts-and-gaps")


async def test_a_long_conversation_opens_at_its_end_and_pages_backwards(visit, site):
    for first in (0, 100):
        await site.history.store_messages(
            "long",
            [
                NewMessage(f"m-{n:03}", ("user", "assistant")[n % 2], text=f"Line {n}. {STORY}")
                for n in range(first, first + 100)
            ],
        )
    await visit.sign_in(at="/ui#/c/long")
    await visit.sees(visit.message("m-199"))
    await expect(visit.message("m-199")).to_be_in_viewport(timeout=PATIENCE_MS)
    talk = visit.page.get_by_label("Conversation", exact=True).last
    for _ in range(20):
        if await visit.message("m-000").count():
            break
        await talk.evaluate("e => e.scrollTo(0, 0)")
        await asyncio.sleep(0.2)
    ids = await visit.page.locator(".message").evaluate_all("all => all.map((e) => e.id)")
    assert ids == [f"m-m-{n:03}" for n in range(200)]
    await visit.page.get_by_role("button", name="Latest").click()
    await expect(visit.message("m-199")).to_be_in_viewport(timeout=PATIENCE_MS)


async def test_health_shows_each_dependency(visit, site):
    await visit.sign_in(at="/ui#/health")
    await visit.sees(visit.page.get_by_role("heading", name="All systems operational"))
    for name in ("Database", "Channel", "Recorder"):
        await visit.sees(visit.page.get_by_role("heading", name=name))
    await visit.shot("health")


async def test_the_dark_theme_is_chosen_and_remembered(visit, site):
    await visit.sign_in()
    body = visit.page.locator("body")
    light = await body.evaluate("e => getComputedStyle(e).backgroundColor")
    theme = visit.page.get_by_role("button", name="Theme")
    await theme.click()
    await theme.click()
    await visit.page.reload()
    await visit.sees(theme)
    assert await body.evaluate("e => getComputedStyle(e).backgroundColor") != light
    assert "dark" in await theme.get_attribute("aria-label")


@pytest.mark.parametrize("place", ["/ui", "/ui#/c/three%20at%20once", "/ui#/health"])
async def test_every_control_is_reachable_by_tab_with_a_visible_focus(visit, site, place):
    await visit.sign_in(at=place)
    await visit.page.wait_for_timeout(500)
    seen = set()
    for _ in range(12):
        await visit.page.keyboard.press("Tab")
        if await visit.page.evaluate("document.activeElement === document.body"):
            continue  # round the end
        style = await visit.page.evaluate(
            "[document.activeElement.textContent.slice(0, 40) + document.activeElement.id,"
            " getComputedStyle(document.activeElement).outlineStyle, document.activeElement.type]"
        )
        if style[2] != "checkbox":  # its label wears the outline
            assert style[1] != "none", style
        seen.add(style[0])
    assert len(seen) >= 6
