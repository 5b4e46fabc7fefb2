"""Webhook wake-ups: announced channels wake their conversations, and nothing else changes."""

from __future__ import annotations

import asyncio

import pytest

from maintenance.test_poller import opened, publish_message, recorded
from rehydrate import background
from rehydrate.errors import Busy, StoreUnavailable
from rehydrate.maintenance import webhook_wakeups
from rehydrate.maintenance.webhook_wakeups import WebhookWakeups
from waiting import until


@pytest.fixture
def woken():
    return []


async def test_a_row_names_the_conversation_and_without_a_row_the_template_does(woken):
    async def find(channels):
        return {"renamed": "by-row"} if "renamed" in channels else {}

    template = {"ai:x": "x", "renamed": "wrong"}.get
    wakeups = WebhookWakeups(find, template, woken.append)
    wakeups.open()
    wakeups.announce(["ai:x", "renamed", "unknown"])
    await until(lambda: len(woken) == 2)
    assert sorted(woken) == ["by-row", "x"]
    wakeups.announce(["renamed"])
    assert woken[2:] == ["by-row"]  # from the cache
    await wakeups.close()


async def test_a_channel_that_cannot_be_a_conversation_is_dropped_and_logged_once(woken, caplog):
    wakeups = WebhookWakeups(no_rows, lambda channel: channel.removeprefix("ai:"), woken.append)
    wakeups.open()
    wakeups.announce([f"ai:{'x' * 129}{number}" for number in range(100)])
    wakeups.announce(["ai:.", "ai:good"])
    await until(lambda: woken)
    assert (woken, wakeups.dropped) == (["good"], 101)
    assert len(caplog.records) == 1
    await wakeups.close()


async def no_rows(_channels):
    return {}


async def test_repeated_announcements_are_looked_up_together_once(woken):
    queries = []

    async def find(channels):
        queries.append(list(channels))
        return {}

    wakeups = WebhookWakeups(find, str, woken.append)
    wakeups.open()
    for n in range(500):
        wakeups.announce([f"c{n % 50}"])
    await until(lambda: len(woken) == 50)
    assert [len(each) for each in queries] == [50]
    await wakeups.close()


async def test_announcements_wait_for_the_store_and_are_bounded(woken, monkeypatch):
    away = True
    monkeypatch.setattr(background, "RETRY_S", 0.01)
    monkeypatch.setattr(webhook_wakeups, "MAX_WAITING", 3)

    async def find(channels):
        if away:
            raise StoreUnavailable("away")
        return {channel: channel for channel in channels}

    wakeups = WebhookWakeups(find, lambda _: None, woken.append)
    wakeups.open()
    wakeups.announce(f"c{n}" for n in range(10))
    assert wakeups.full
    await asyncio.sleep(0.1)
    assert not woken
    away = False
    await until(lambda: len(woken) == 3)
    assert not wakeups.full
    await wakeups.close()


async def test_an_unexpected_exception_does_not_end_the_lookups(woken, caplog, monkeypatch):
    monkeypatch.setattr(background, "RETRY_S", 0.01)
    answers = [KeyError("secret"), {"b": "b"}]

    async def find(channels):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    wakeups = WebhookWakeups(find, lambda _: None, woken.append)
    wakeups.open()
    wakeups.announce(["a"])
    await until(lambda: len(answers) == 1)
    wakeups.announce(["b"])
    await until(lambda: woken == ["b"])
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
    await wakeups.close()


async def test_an_announced_conversation_is_recorded(database, ably):
    async with opened(database, ably) as history:
        await publish_message(history, "ai:announced", "hello")
        history.record_soon({"ai:announced": 5, "[meta]whatever": None, "elsewhere": None})
        assert history.context.edited_ms.get("ai:announced") == 5
        assert await recorded(history, "announced") == ["p-1"]


async def test_announcements_are_refused_while_the_queue_is_full(database, ably, monkeypatch):
    monkeypatch.setattr(webhook_wakeups, "MAX_WAITING", 0)
    async with opened(database, ably) as history:
        with pytest.raises(Busy, match="recording queue is full; retry later"):
            history.record_soon(["ai:x"])
