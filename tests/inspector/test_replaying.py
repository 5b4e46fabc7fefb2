"""Replays from the page: dry runs, progress, cancelling, repairs, audit."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import expect

from api.minting import SERVICE_KEY, bearer
from contracts.messages import event_of, further
from inspector.site import PATIENCE_MS
from rehydrate import NewMessage
from rehydrate.ports import Outgoing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORDS = [f"word-{n} " for n in range(40)]
TEXT = "".join(WORDS)


async def publish(site, conversation, response_id, *, pause_s):
    await site.history.store_messages(
        conversation, [NewMessage("p", "user", text="Say forty words.")]
    )
    async with site.history.respond(conversation, response_id, prompt_id="p") as response:
        for word in WORDS:
            response.write(word)
            await asyncio.sleep(pause_s)


@pytest.fixture
def dialog(visit):
    return visit.page.get_by_role("dialog")


async def open_dialog(visit, dialog, response_id):
    await visit.message(response_id).get_by_role("button", name="Replay…").click()
    await expect(dialog.get_by_role("heading")).to_have_text("Replay", timeout=PATIENCE_MS)
    await expect(dialog.locator(".plan-line")).to_be_visible(timeout=PATIENCE_MS)


async def test_a_response_is_replayed_at_four_times_its_pace(visit, site, dialog):
    await publish(site, "again", "r", pause_s=0.1)
    await visit.sign_in(at="/ui#/c/again")
    await visit.reads(visit.message("r").locator(".text"), TEXT)
    await open_dialog(visit, dialog, "r")
    plan = dialog.locator(".plan-line")
    once_s = float(re.search(r"in ([\d.]+) s on", await plan.inner_text())[1])
    assert once_s > 3.5
    await dialog.get_by_label("Speed").select_option("4 ×")
    await expect(plan).not_to_contain_text(f"in {once_s:g} s", timeout=PATIENCE_MS)
    assert await plan.evaluate("e => e.textContent.endsWith('ai:again')")
    await visit.shot("replay-dialog")
    await dialog.get_by_role("button", name="Start replay").click()
    await visit.sees(dialog.get_by_text("Running").or_(dialog.get_by_text("Done")))
    replayed = visit.page.locator(".message.replayed")
    await expect(replayed.locator(".text")).to_have_text(TEXT.strip(), timeout=PATIENCE_MS)
    await visit.sees(dialog.get_by_text("Done"))
    await visit.shot("replay-done")
    await dialog.get_by_role("button", name="Close").click()
    await expect(replayed).to_contain_text("Replay of r", timeout=PATIENCE_MS)
    assert await replayed.locator(".text").evaluate("e => e.textContent") == TEXT
    await visit.shot("replayed")


async def test_a_replay_is_cancelled_in_its_dialog(visit, site, dialog):
    await publish(site, "cancelled", "r", pause_s=0.1)
    await visit.sign_in(at="/ui#/c/cancelled")
    await open_dialog(visit, dialog, "r")
    await dialog.get_by_label("Speed").select_option("0.5 ×")
    await dialog.get_by_role("button", name="Start replay").click()
    replayed = visit.page.locator(".message.replayed")
    await expect(replayed.locator(".text")).to_contain_text("word-1", timeout=PATIENCE_MS)
    await dialog.get_by_role("button", name="Cancel").click()
    await visit.sees(dialog.get_by_text("Cancelled"))
    await expect(replayed.locator(".tag").first).to_have_text("Cancelled", timeout=PATIENCE_MS)
    await visit.page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)


async def test_a_replay_is_listed_and_cancelled_in_the_list(visit, site, dialog):
    await publish(site, "listed", "resp-1", pause_s=0.1)
    await visit.sign_in(at="/ui#/c/listed")
    await open_dialog(visit, dialog, "resp-1")
    await dialog.get_by_label("Speed").select_option("0.5 ×")
    await dialog.get_by_role("button", name="Start replay").click()
    await visit.sees(dialog.get_by_text("Running"))
    await dialog.get_by_role("button", name="Close").click()
    await visit.page.get_by_role("link", name="Replays", exact=True).click()
    entry = visit.page.get_by_role("listitem").filter(has_text="resp-1")
    await visit.sees(entry.get_by_text("Running"))
    await visit.shot("replays")
    await entry.get_by_role("button", name="Cancel").click()
    await visit.sees(entry.get_by_text("Cancelled"))


async def test_a_refused_publish_leaves_a_gap_until_it_is_repaired(visit, site, dialog):
    visit.allowed = ("409",)
    channel = await site.history.channel_of("lossy")
    await visit.sign_in(at="/ui#/c/lossy")
    await visit.sees(visit.page.get_by_text("No messages yet"))

    async def publish_message(name, data, seq):
        extras = {"headers": {"responseId": "r", "seq": seq}}
        sent = site.history._channel.publish(
            channel, [Outgoing(name, data, f"{name}{seq}", extras)]
        )
        await asyncio.gather(sent, return_exceptions=True)

    site.server.faults.set("refuse_publish", nth=4, code=42911, channel=channel)
    try:
        for seq, text in enumerate(["", "one ", "two ", "three ", "four"]):
            await publish_message("token" if seq else "start", text or None, seq)
        await publish_message("stop", None, 5)
    finally:
        site.server.faults.clear()
    message = visit.message("r")
    gap = message.get_by_role("img", name="1 event missing: seq 3")
    await visit.sees(gap)
    assert await message.locator(".text").evaluate("e => e.textContent") == "one two 3 missingfour"
    await visit.shot("gap")
    # a repair from the store would glue the text over the gap: it is refused
    await message.get_by_role("button", name="Replay…").click()
    await dialog.get_by_label("Repair what readers see").check()
    await expect(dialog.get_by_role("alert")).to_contain_text(
        "is stored with gaps", timeout=PATIENCE_MS
    )
    await visit.page.keyboard.press("Escape")
    await publish_message("response-complete", {"text": "one two three four"}, 5)
    await visit.reads(message.locator(".text"), "one two three four")
    await expect(gap).to_have_count(0)


async def test_a_repair_gives_live_readers_the_stored_text(visit, site, dialog):
    await publish(site, "behind", "r", pause_s=0)
    await visit.sign_in(at="/ui#/c/behind")
    message = visit.message("r")
    await visit.reads(message.locator(".text"), TEXT)
    # the stored text is repaired without publishing, so that no reader notices
    last = len(WORDS) + 1
    await further(
        site.history._store, "behind", event_of("repair", "r", last, text="as it should be")
    )
    await visit.reads(message.locator(".text"), TEXT)
    await message.get_by_role("button", name="Replay…").click()
    await dialog.get_by_label("Repair what readers see").check()
    await expect(dialog.locator(".plan-line")).to_contain_text("1 message", timeout=PATIENCE_MS)
    await expect(dialog.get_by_label("Speed")).to_be_hidden()
    await visit.shot("repair-dialog")
    await dialog.get_by_role("button", name="Start replay").click()
    await visit.sees(dialog.get_by_text("Done"))
    await dialog.get_by_role("button", name="Close").click()
    await visit.reads(message.locator(".text"), "as it should be")


async def test_the_dialog_reports_why_a_replay_is_refused(visit, site, dialog):
    visit.allowed = ("403", "422")
    await publish(site, "refused", "r", pause_s=0)
    await visit.sign_in(at="/ui#/c/refused")
    await open_dialog(visit, dialog, "r")
    start = dialog.get_by_role("button", name="Start replay")
    await dialog.get_by_label("Channel").fill("somebody-elses")
    alert = dialog.get_by_role("alert")
    await expect(alert).to_contain_text(
        "replays to this channel are not allowed", timeout=PATIENCE_MS
    )
    await expect(start).to_be_disabled()
    await dialog.get_by_label("Channel").fill("")
    await expect(alert).to_be_hidden(timeout=PATIENCE_MS)
    await dialog.get_by_label("Messages/s").fill("5000")
    await expect(alert).to_contain_text("max_rate", timeout=PATIENCE_MS)
    await visit.shot("refused")


async def test_a_streaming_response_cannot_be_replayed(visit, site):
    async with site.history.respond("streaming", "r") as response:
        response.write("so far")
        await visit.sign_in(at="/ui#/c/streaming")
        await visit.sees(visit.message("r").get_by_text("so far"))
        await expect(visit.message("r").get_by_role("button", name="Replay…")).to_be_disabled()


async def test_the_audit_shows_actions_and_refusals(visit, site, dialog):
    await publish(site, "audited", "r", pause_s=0)
    await visit.sign_in(at="/ui#/c/audited")
    await open_dialog(visit, dialog, "r")
    await dialog.get_by_label("Speed").select_option("As fast as allowed")
    await dialog.get_by_role("button", name="Start replay").click()
    await visit.sees(dialog.get_by_text("Done"))
    await dialog.get_by_role("button", name="Close").click()
    request = visit.page.context.request
    refused = await request.get(f"{visit.url}/v1/admin/audit", headers=bearer(SERVICE_KEY))
    assert refused.status == 403
    await visit.page.get_by_role("link", name="Audit", exact=True).click()
    entries = visit.page.get_by_role("list", name="Audit").get_by_role("listitem")
    await expect(entries.filter(has_text="refused").first).to_be_visible(timeout=PATIENCE_MS)
    await expect(entries.filter(has_text="audited").first).to_contain_text(
        "admin:", timeout=PATIENCE_MS
    )
    await visit.shot("audit")
