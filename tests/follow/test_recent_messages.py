"""Hydrating from the received messages of a follower, and the cost of joining."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from rehydrate.core.event import Event
from rehydrate.core.window import Watermark
from rehydrate.follow.recent_messages import MAX_EVENTS, RecentMessages, reaches
from rehydrate.ports import Outgoing
from rehydrate.record.import_messages import NewMessage
from telling import attachments, history_over, reading

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


@pytest.fixture
async def other(module_database, server):
    """A second `History` over the same store and channel, as in another process."""
    async with history_over(module_database, server) as made:
        yield made


@pytest.fixture
def reads(history, monkeypatch):
    """The channels whose history was read by a hydrate, in order (a recorder passes `limit`)."""
    found, read_history = [], history._channel.history

    def recorded(channel, **how):
        if "limit" not in how:
            found.append(channel)
        return read_history(channel, **how)

    monkeypatch.setattr(history._channel, "history", recorded)
    return found


async def test_a_hydrate_of_a_followed_conversation_reads_no_history(
    history, other, conversation, publisher, reads
):
    await publisher.stream("r1", "before", stop=False)
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        await publisher.stream("r1", "!", first=7, start=False)
        await publisher.stream("r2", "after", stop=False)
        await follower.until(lambda r: r.texts.get("r2") == "after")
        reads.clear()
        answer = await history.hydrate(conversation)
        reached = await history.hydrate(conversation, until=answer.until)
        assert not reads
        elsewhere = await other.hydrate(conversation)
    assert answer.messages == elsewhere.messages == reached.messages
    assert answer.until == elsewhere.until
    assert answer.complete


async def test_a_hydrate_of_a_followed_conversation_has_what_another_process_stored(
    history, other, conversation, publisher, reads
):
    async with reading(history, conversation) as follower:
        await publisher.stream("r", "live", stop=False)
        await follower.until(lambda r: r.texts.get("r") == "live")
        await other.store_messages(conversation, [NewMessage("m", "user", text="stored")])
        await other.catch_up(conversation)
        reads.clear()
        answer = await history.hydrate(conversation)
    assert not reads
    assert {m["id"]: m["text"] for m in answer.messages} == {"r": "live", "m": "stored"}


async def test_history_is_read_if_the_follower_has_not_reached_until(
    history, conversation, publisher, reads
):
    async with reading(history, conversation) as follower:
        await publisher.stream("r", "ab", stop=False)
        await follower.until(lambda r: r.texts.get("r") == "ab")
        (later,) = await history._channel.publish(f"other-{conversation}", [Outgoing("t", "", "t")])
        reads.clear()
        await history.hydrate(conversation, until=later.partition(":")[0])
    assert reads


async def test_history_is_read_if_the_connection_does_not_answer(
    history, server, conversation, publisher, reads
):
    async with reading(history, conversation) as follower:
        await publisher.stream("r", "ab", stop=False)
        await follower.until(lambda r: r.texts.get("r") == "ab")
        connection = history._channel._pool._pooled[0].connection
        with server.faults.on("freeze"):
            connection._echoed_s -= 100
            reads.clear()
            answer = await history.hydrate(conversation)
    assert reads
    assert answer.messages[0]["text"] == "ab"


async def test_two_hundred_simultaneous_joins_cost_one_attach_and_one_read(
    history, server, conversation, publisher, reads
):
    await publisher.stream("r", "abc", stop=False)
    loads, load = [], history._store.load

    async def counted(*ids, limit, before):
        if limit > 1:  # limit 1 only resolves the channel name
            loads.append(ids)
        return await load(*ids, limit=limit, before=before)

    history._store.load = counted
    async with AsyncExitStack() as stack:
        joined = [await stack.enter_async_context(history.joined(conversation)) for _ in range(200)]
        firsts = await asyncio.gather(*(each.batch(10) for each in joined))
        assert len(attachments(server, conversation)) == 1
    assert all(first is firsts[0][0] for (first,) in firsts)
    assert firsts[0][0].data["messages"][0]["text"] == "abc"
    assert len(reads) == 1
    assert len(loads) == 1


def test_received_messages_reach_the_store_at_the_margin():
    watermark = Watermark("s", 100_000, 200_000)
    assert reaches(watermark, 195_000)
    assert not reaches(watermark, 195_001)
    assert reaches(Watermark("s", 300_000, 200_000), 295_000)
    assert reaches(None, 0)
    assert not reaches(None, 1)


def test_the_oldest_events_are_evicted_and_the_complete_period_shrinks():
    recent = RecentMessages(10_000, 100)
    recent.complete([], 0)
    for at_ms in range(MAX_EVENTS + 5):
        recent.append(Event("token", "r", seq=at_ms, text="", timestamp_ms=at_ms))
    assert recent.events(None) is None
    kept = recent.events(Watermark("s", 5_005, 5_005))
    assert [event.seq for event in kept] == list(range(5, MAX_EVENTS + 5))
    assert recent.events(Watermark("s", 5_004, 5_004)) is None
