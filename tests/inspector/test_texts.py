"""Texts, names and ids are never interpreted as markup."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.async_api import expect

from api.minting import SERVICE_KEY, bearer
from inspector.site import PATIENCE_MS
from rehydrate import NewMessage
from rehydrate.ports import Outgoing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CORPUS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload=window.pwned=1>",
    '"><svg/onload=window.pwned=1>',
    "'-(window.pwned=1)-'",
    "javascript:window.pwned=1",
    "<a href=javascript:window.pwned=1>x</a>",
    "{{constructor.constructor('window.pwned=1')()}}",
    "${window.pwned=1}",
    "</title><script>window.pwned=1</script>",
    "<style>body{display:none}</style>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.pwned=1>",
    "data:text/html,<script>window.pwned=1</script>",
    "__proto__",
    "constructor",
    "\u202ertl \u2066isolate",
    "a/../../b?c#d&e=%00%2e%2e",
    "&lt;b&gt;&amp;&#60;",
]


async def pwned(visit):
    return await visit.page.evaluate("[window.pwned, ({}).pwned, document.scripts.length]")


async def test_ids_of_conversations_are_never_markup(visit, site):
    for text in CORPUS:
        await site.history.store_messages(text, [NewMessage("m", "user", text="x" + text)])
    await visit.sign_in()
    rows = visit.page.get_by_role("list", name="Conversations").get_by_role("link")
    await expect(rows).to_have_count(len(CORPUS), timeout=PATIENCE_MS)
    shown = await rows.locator(".row-sub bdi").evaluate_all("all => all.map(e => e.textContent)")
    assert sorted(shown) == sorted(CORPUS)
    for text in CORPUS:
        await visit.open("#/c/" + quote(text, safe=""))
        heading = visit.page.locator(".conversation h2 bdi")
        await expect(heading).to_have_text(text, timeout=PATIENCE_MS, use_inner_text=False)
        await visit.sees(visit.message("m"))
        text_shown = visit.message("m").locator(".text")
        assert await text_shown.evaluate("e => e.textContent") == "x" + text
    assert await pwned(visit) == [None, None, 1]
    await visit.shot("odd-names")


async def test_texts_and_names_of_models_are_never_markup(visit, site):
    conversation = "spoken"
    channel = await site.history.channel_of(conversation)

    async def publish_message(number, seq, name, data, **more):
        headers = {"responseId": CORPUS[number], "seq": seq, **more}
        id_ = f"{conversation}-{number}-{seq}"
        await site.history._channel.publish(
            channel, [Outgoing(name, data, id_, {"headers": headers}, CORPUS[number])]
        )

    for number, text in enumerate(CORPUS):
        await publish_message(number, 0, "start", None, promptId=text)
        await publish_message(number, 1, "reasoning", text)
        await publish_message(
            number, 2, "tool_call", {"name": text, "args": {text: text}}, toolCallId=text
        )
        await publish_message(
            number, 3, "tool_result", {"name": text, "result": text}, toolCallId=text
        )
        await publish_message(number, 4, "refusal", text)
        await publish_message(number, 5, "token", text)
        await publish_message(number, 6, "stop", None, status="failed", error=text)
    await visit.sign_in(at="/ui#/c/spoken")
    for text in CORPUS:
        message = visit.page.locator(".message").filter(
            has=visit.page.locator(f"header bdi[title={_css(text)}]")
        )
        await visit.sees(message)
        shown = await message.evaluate("e => e.textContent")
        # its id, reasoning, name, key and value, result, refusal, text, error
        assert shown.count(text) >= 7
        assert not await message.locator("script, img, svg, iframe, style, a[href^='j']").count()
    await visit.page.get_by_role("link", name="Timeline").first.click()
    facts = visit.page.get_by_role("complementary").locator("dl").first
    await expect(facts).to_contain_text(CORPUS[0], timeout=PATIENCE_MS)  # of its publisher
    assert await pwned(visit) == [None, None, 1]
    await visit.shot("odd-texts")


async def test_texts_in_the_audit_are_never_markup(visit, site):
    for text in CORPUS:
        name = quote(text, safe="")
        path = f"/v1/admin/conversations/{name}/responses/{name}/replay"
        asked = {"headers": bearer(SERVICE_KEY), "data": {}}
        answer = await visit.page.context.request.post(visit.url + path, **asked)
        assert answer.status in (403, 404), answer.status
    await visit.sign_in(at="/ui#/audit")
    entries = visit.page.get_by_role("list", name="Audit").get_by_role("listitem")
    await expect(entries.filter(has_text="constructor").first).to_be_visible(timeout=PATIENCE_MS)
    assert await pwned(visit) == [None, None, 1]


def _css(text):
    """Return *text* as a CSS string."""
    return '"' + "".join(f"\\{ord(c):x} " for c in text) + '"'


async def test_unknown_routes_show_the_list(visit, site):
    await visit.sign_in()
    for place in ("#/c/", "#/c/%", "#/c/%E0%A4%A", "#/nowhere", "#javascript:alert(1)", "#/c//m/"):
        await visit.open(place)
        await visit.sees(visit.page.get_by_role("searchbox"))
    assert await pwned(visit) == [None, None, 1]
