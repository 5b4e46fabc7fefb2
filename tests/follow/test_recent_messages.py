"""Hydrating from the received messages of a follower, and the cost of joining."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from participants import attachments, history_over, reading
from rehydrate.core.event import ChannelMessage, Event, Version
from rehydrate.core.json import dump
from rehydrate.core.window import Watermark, Window
from rehydrate.errors import ChannelRefused
from rehydrate.follow import recent_messages
from rehydrate.follow.recent_messages import (
    MAX_EVENTS,
    RecentMessages,
    from_attach_point,
    reaches,
)
from rehydrate.hydrate.history_window import HistoryQuery, HistoryWindow
from rehydrate.ports import Outgoing
from rehydrate.record.import_messages import NewMessage

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

    async def counted(*ids, limit, **more):
        if limit > 1:  # limit 1 only resolves the channel name
            loads.append(ids)
        return await load(*ids, limit=limit, **more)

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


def message(at_ms, serial=None):
    return ChannelMessage("token", "x", f"i-{at_ms}", serial, at_ms)


@pytest.mark.parametrize(("rewound", "is_cut"), [(99, False), (100, True)])
def test_a_rewind_may_be_cut_if_a_hundred_messages_precede_its_end(rewound, is_cut):
    recent = RecentMessages(10_000, 100)
    recent.attached(50_000)
    for n in range(rewound):
        recent.count_delivery(message(40_000 + n))
    recent.end_backlog(proved=True)
    for n in range(100):
        recent.count_delivery(message(50_000 + n))
    assert recent.is_cut is is_cut


async def test_a_read_waits_for_the_end_of_the_rewind(monkeypatch):
    monkeypatch.setattr(recent_messages, "BACKLOG_TIMEOUT_S", 0.01)
    recent = RecentMessages(10_000, 100)
    recent.attached(50_000)
    assert not await recent.backlog()
    monkeypatch.setattr(recent_messages, "BACKLOG_TIMEOUT_S", 30.0)
    waiting = asyncio.create_task(recent.backlog())
    await asyncio.sleep(0)
    recent.end_backlog(proved=True)
    assert await waiting
    recent.attached(60_000)
    recent.end_backlog(proved=False)
    assert not await recent.backlog()
    recent.attached(70_000)
    recent.detached()
    assert not await recent.backlog()


def test_a_rewind_without_an_end_may_be_missing_until_history_has_had_its_time():
    recent = RecentMessages(10_000, 100)
    recent.attached(50_000)
    early, late = (HistoryWindow([], Window(at), Counter()) for at in (51_999, 52_000))
    assert recent.may_miss_backlog(early)
    assert not recent.may_miss_backlog(late)
    recent.end_backlog(proved=True)
    assert not recent.may_miss_backlog(early)
    recent.attached(60_000)
    recent.detached()  # nothing more will be delivered: that is another reason
    assert not recent.may_miss_backlog(early)


def test_history_meets_a_cut_rewind_if_it_reaches_its_oldest_message():
    recent = RecentMessages(10_000, 2)
    recent.attached(50_000)
    window = Window(50_000)
    history = HistoryWindow([], window, Counter())
    assert recent.meets(history)
    recent.count_delivery(message(45_000))
    recent.count_delivery(message(46_000))
    assert not recent.meets(history)
    window.add_page([message(44_999)])
    assert not recent.meets(history)
    window.add_page([message(45_000)])
    assert recent.meets(history)


def test_history_up_to_the_attach_point_meets_a_cut_rewind_if_it_shows_its_end():
    recent = RecentMessages(10_000, 2)
    recent.attached(50_000)
    recent.count_delivery(message(45_000))
    history = HistoryWindow([], Window(50_000), Counter(), received=1)
    history.window.add_page([message(45_000)])  # the received message itself proves nothing
    assert recent.meets(history)
    recent.count_delivery(message(46_000))
    assert not recent.meets(history)
    assert recent.meets(history._replace(seam_shown=True))


def event(at_ms):
    serial = f"{at_ms:014d}-000@s:000"
    return Event("token", "r", seq=at_ms, serial=serial, timestamp_ms=at_ms, text="x")


def test_the_events_since_the_attach_are_those_of_this_attachment_alone():
    recent = RecentMessages(10_000, 100)
    assert recent.since_attach() is None
    recent.attached(10)
    recent.append(event(1))
    recent.attached(20)
    for at_ms in (12, 13):
        recent.append(event(at_ms))
    recent.complete([event(11)], 0)
    recent.append(event(14))
    assert [each.timestamp_ms for each in recent.since_attach()] == [12, 13, 14]
    recent.detached()
    assert recent.since_attach() is None


def test_the_events_since_the_attach_are_unknown_once_some_were_evicted(monkeypatch):
    monkeypatch.setattr(recent_messages, "MAX_EVENTS", 3)
    recent = RecentMessages(10_000, 100)
    recent.append(event(1))
    recent.attached(10)
    for at_ms in (2, 3, 4):
        recent.append(event(at_ms))
    assert [each.timestamp_ms for each in recent.since_attach()] == [2, 3, 4]
    recent.append(event(5))
    assert recent.since_attach() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "token", "text": "語" * 50_000},
        {"kind": "tool_result", "tool_call_id": "c", "value": ["x" * 50_000]},
    ],
    ids=lambda fields: fields["kind"],
)
def test_the_oldest_events_are_evicted_beyond_the_maximum_size(fields):
    recent = RecentMessages(10_000, 100)
    recent.attached(0)
    for at_ms in range(1, 500):
        recent.append(Event(message_id="r", seq=at_ms, timestamp_ms=at_ms, **fields))
    kept = recent.since(0)
    sizes = [len(dump([each.text, each.value])) for each in kept]
    assert recent_messages.MAX_BYTES / 2 < sum(sizes) <= recent_messages.MAX_BYTES * 1.5
    assert kept[-1].seq == 499
    assert recent.complete_from_ms == kept[0].seq  # what was evicted is not complete any more


def test_growing_messages_are_evicted_beyond_the_maximum_size(monkeypatch):
    monkeypatch.setattr(recent_messages, "MAX_BYTES", 10_000)
    recent = RecentMessages(10_000, 100)
    recent.complete([], 0)
    for version in range(3):
        for n in range(3):
            text = "x" * 1_000 * (version + 1)
            grown = Version(f"{version}", is_delta=False)
            recent.append(
                Event("token", "r", serial=f"s{n}", text=text, version=grown, timestamp_ms=n)
            )
    assert [each.serial for each in recent.since(0)] == ["s1", "s2"]
    assert recent.events(None) is None


class Channel:
    """A channel whose history has the given pages, newest first; it keeps what was asked."""

    def __init__(self, *pages, error=None):
        self.pages = pages
        self.error = error
        self.asked = []

    async def history(self, channel, **how):
        self.asked.append({"channel": channel, **how})
        for page in self.pages:
            yield page
        if self.error is not None:
            raise self.error


def token(at_ms):
    extras = {"headers": {"responseId": "r", "seq": at_ms}}
    serial = f"{at_ms:014d}-000@s:000"
    return ChannelMessage("token", "x", f"i-{at_ms}", serial, at_ms, None, extras)


async def from_point(channel, recent, at_ms=3):
    query = HistoryQuery("c", Watermark(None, 6_000, 6_000), None, 20_000, may_have_grown=False)
    return await from_attach_point(
        SimpleNamespace(channel=channel, token_names=frozenset()),
        query,
        recent=recent,
        attach_point=f"{at_ms:014d}-000@s",
    )


@pytest.fixture
def attached():
    made = RecentMessages(10_000, 100)
    made.attached(15_000)
    for at_ms in (15_004, 15_005):
        made.append(event(at_ms))
    return made


async def test_history_up_to_the_attach_point_is_followed_by_what_was_received(attached):
    channel = Channel([token(15_002), token(15_003)], [token(15_001)])
    history = await from_point(channel, attached, 15_003)
    assert [each.seq for each in history.events] == [15_001, 15_002, 15_003, 15_004, 15_005]
    assert (history.received, history.seam_shown, history.rewound) == (2, True, False)
    assert history.window.newest_ms == 15_005
    assert channel.asked == [
        {
            "channel": "c",
            "since_ms": 1_000,
            "until": f"{15_003:014d}-000@s",
        }
    ]


async def test_the_seam_is_not_shown_while_history_lags_behind_a_new_attach_point(attached):
    history = await from_point(Channel([token(15_002)]), attached, 19_000)
    assert (history.received, history.seam_shown) == (2, False)


async def test_history_up_to_the_attach_point_stands_alone_if_received_events_were_evicted(
    attached, monkeypatch
):
    monkeypatch.setattr(recent_messages, "MAX_EVENTS", 1)
    attached.append(event(15_006))
    history = await from_point(Channel([token(15_003)]), attached, 15_003)
    assert ([each.seq for each in history.events], history.received) == ([15_003], 0)


async def test_the_rewind_is_used_if_history_up_to_the_attach_point_cannot_be_read(attached):
    history = await from_point(Channel([token(1)], error=ChannelRefused(40160, "no")), attached)
    assert history.rewound is False  # the rewind does not reach the store
    assert history.failure.code == "history_refused"
    assert history.events == [], "a part of the pages would leave a hole below it"
    attached.complete([], 0)
    history = await from_point(Channel(error=ChannelRefused(40160, "no")), attached)
    assert history.rewound is False  # more of the rewind may follow
    attached.end_backlog(proved=True)
    history = await from_point(Channel(error=ChannelRefused(40160, "no")), attached)
    assert (history.rewound, history.failure) == (True, None)
    assert [each.seq for each in history.events] == [15_004, 15_005]
