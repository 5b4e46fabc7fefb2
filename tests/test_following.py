"""Following, over Postgres, the channel server and the stock SDK."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from rehydrate import told
from rehydrate.errors import ChannelRefused
from rehydrate.localably import Key, LocalAbly
from rehydrate.localably.capability import Capability
from rehydrate.recording import NewMessage
from rehydrate.wiring import History
from telling import attachments, history_over, publisher_to, reading, settings_for

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


@pytest.fixture
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(params=["rewind", "history"])
async def history(request, module_database, server):
    async with history_over(module_database, server, follow_strategy=request.param) as made:
        yield made


@pytest.fixture
def conversation():
    return f"c-{secrets.token_hex(4)}"


@pytest.fixture
async def publisher(server, conversation):
    async with publisher_to(server, f"ai:{conversation}") as made:
        yield made


async def test_who_follows_an_empty_conversation_gets_an_empty_snapshot_then_what_is_said(
    history, conversation, publisher
):
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.snapshots)
        assert reader.snapshots[0]["messages"] == []
        await publisher.say("user-input", {"promptId": "p", "text": "語?"})
        await publisher.stream("r", "héllo 👩‍👩‍👧")
        await follower.until(lambda r: r.statuses.get("r") == "completed")
    assert reader.texts == {"p": "語?", "r": "héllo 👩‍👩‍👧"}
    assert reader.kinds == ["snapshot", "prompt", "start", *["token"] * 11, "stop"]
    assert not reader.wrong


async def test_who_joins_in_the_middle_sees_finished_and_streaming_responses_and_goes_on(
    history, conversation, publisher
):
    await publisher.stream("done", "finished")
    for seq in range(5):
        for rid in ("a", "b", "c"):
            await publisher.say("token" if seq else "start", f"{rid}{seq}", rid=rid, seq=seq)
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.snapshots)
        await publisher.say("token", "a5", rid="a", seq=5)
        await publisher.say("stop", rid="b", seq=5)
        await follower.until(lambda r: r.statuses.get("b") == "completed")
    assert reader.texts == {
        "done": "finished",
        "a": "a1a2a3a4a5",
        "b": "b1b2b3b4",
        "c": "c1c2c3c4",
    }
    assert len(reader.snapshots) == 1
    assert reader.snapshots[0]["complete"]
    assert not reader.wrong


async def test_a_stored_message_without_channel_is_in_the_snapshot_and_one_stored_later_in_a_new(
    history, conversation
):
    await history.store_messages(conversation, [NewMessage("m1", "assistant", text="one")])
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.texts == {"m1": "one"})
        await history.store_messages(conversation, [NewMessage("m2", "user", text="two")])
        await follower.until(lambda r: r.texts == {"m1": "one", "m2": "two"})
    assert reader.kinds == ["snapshot", "snapshot"]


def completed(*rids):
    return lambda reader: all(reader.statuses.get(rid) == "completed" for rid in rids)


async def test_a_refused_token_is_missing_for_nobody_once_it_is_repaired(
    history, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        await publisher.say("start", rid="r", seq=0)
        await publisher.say("token", "a", rid="r", seq=1)
        await publisher.say("token", "c", rid="r", seq=3)  # the second was refused
        await publisher.say("token", "x", rid="other", seq=1)
        reader = await follower.until(lambda r: r.texts.get("r") == "ac")
        assert reader.messages["r"]["gaps"] == [[2, 2]]
        await publisher.say("response-complete", "abc", rid="r", seq=3)
        await publisher.say("stop", rid="r", seq=4)
        await follower.until(completed("r"))
    assert reader.texts == {"r": "abc", "other": "x"}
    assert "again" not in reader.kinds


async def test_while_one_response_waits_for_what_is_missing_others_stream_on(
    history, server, conversation, publisher
):
    with server.faults.on("delay_history", ms=3_000):
        async with reading(history, conversation) as follower:
            await follower.until(lambda r: r.snapshots)
            await publisher.say("token", "a", rid="r", seq=1)
            await publisher.say("token", "c", rid="r", seq=3)
            await publisher.stream("other", "goes on")
            reader = await follower.until(completed("other"))
            assert reader.texts["other"] == "goes on"
            assert reader.texts["r"] == "a"
            await publisher.say("token", "b", rid="r", seq=2)  # it was overtaken only
            await publisher.say("stop", rid="r", seq=4)
            await follower.until(completed("r"))
    assert reader.texts["r"] == "abc"


async def test_dropped_deliveries_lead_to_a_new_snapshot(history, server, conversation, publisher):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        with server.faults.on(
            "drop_deliveries", channel=f"ai:{conversation}", nth=[3, 4], code=80020
        ):
            await publisher.stream("r", "abcdef")
        reader = await follower.until(completed("r"))
    assert reader.texts == {"r": "abcdef"}
    assert "again" in reader.kinds


async def test_silently_dropped_deliveries_are_noticed_by_their_seq(
    history, server, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        with server.faults.on(
            "drop_deliveries", channel=f"ai:{conversation}", nth=[3, 4], silent=True
        ):
            await publisher.stream("r", "abcdef")
        reader = await follower.until(completed("r"))
    assert reader.texts == {"r": "abcdef"}


async def test_a_connection_that_is_cut_is_resumed_and_nothing_is_lost(
    history, server, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        await publisher.stream("r", "abc", stop=False)
        server.cut()
        await publisher.stream("r", "def", first=4, start=False)
        reader = await follower.until(completed("r"))
    assert reader.texts == {"r": "abcdef"}


async def test_a_connection_that_cannot_be_resumed_leads_to_a_new_snapshot(
    history, server, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        await publisher.say("user-input", {"promptId": "p", "text": "one"})
        with server.faults.on("refuse_resume"), server.faults.on("refuse_continuity"):
            server.cut()
            await publisher.stream("r", "abcdef")
            reader = await follower.until(completed("r"))
    assert reader.texts == {"p": "one", "r": "abcdef"}
    assert "again" in reader.kinds


async def test_without_history_the_stored_part_is_shown_and_the_rest_when_it_comes(
    history, server, conversation, publisher
):
    await publisher.stream("r", "abc", stop=False)
    with server.faults.on("fail_history", status=503):
        async with reading(history, conversation) as follower:
            reader = await follower.until(lambda r: r.snapshots, within_s=30)
            assert not reader.snapshots[0]["complete"]
            assert reader.snapshots[0]["reasons"][0]["retry"]
            server.faults.clear("fail_history")
            await follower.until(lambda r: r.snapshots[-1]["complete"], within_s=30)
    assert reader.texts == {"r": "abc"}


async def test_one_attachment_serves_all_followers_and_ends_after_the_grace_period(
    module_database, server, conversation, publisher
):
    async with history_over(module_database, server, follow_grace_s=0.3) as history:
        async with reading(history, conversation) as one, reading(history, conversation) as two:
            await one.until(lambda r: r.snapshots)
            await two.until(lambda r: r.snapshots)
            assert len(attachments(server, conversation)) == 1
            await publisher.stream("r", "ab")
            await one.until(completed("r"))
            await two.until(completed("r"))
        async with reading(history, conversation) as three:
            await three.until(completed("r"))
            assert len(attachments(server, conversation)) == 1
        async with asyncio.timeout(10):
            while attachments(server, conversation):  # noqa: ASYNC110 - of a server, without event
                await asyncio.sleep(0.02)
        assert len(history._following) == 0


async def test_a_slow_follower_gets_a_new_snapshot_and_holds_nobody_up(
    history, conversation, publisher, monkeypatch
):
    monkeypatch.setattr(told, "MOST_TOLD", 20)
    async with history.joined(conversation) as slow, reading(history, conversation) as fast:
        assert (await slow.batch())[0].kind == "snapshot"
        await fast.until(lambda r: r.snapshots)
        for seq in range(50):
            await publisher.say("token", str(seq % 10), rid="r", seq=seq + 1)
            await fast.until(lambda r, n=seq + 1: len(r.texts.get("r", "")) == n)
        assert len(fast.reader.snapshots) == 1
        (snapshot,) = await slow.batch()
        assert snapshot.kind == "snapshot"
        assert snapshot.data["messages"][0]["text"] == "0123456789" * 5
        await publisher.say("token", "!", rid="r", seq=51)
        (last,) = await slow.batch()
        assert last.data["text"] == "!"


async def test_a_replay_is_followed_from_its_start_and_is_in_no_snapshot(
    history, conversation, publisher
):
    async with reading(history, conversation) as early:
        await early.until(lambda r: r.snapshots)
        await publisher.say("start", rid="again-r", seq=0, replayOf="r")
        await publisher.say("token", "a", rid="again-r", seq=1, replayOf="r")
        await early.until(lambda r: r.texts.get("again-r") == "a")
        async with reading(history, conversation) as late:
            await late.until(lambda r: r.snapshots)
            await publisher.say("token", "b", rid="again-r", seq=2, replayOf="r")
            await publisher.say("stop", rid="again-r", seq=3, replayOf="r")
            await publisher.stream("r2", "x")
            await early.until(completed("again-r", "r2"))
            await late.until(completed("r2"))
    assert early.reader.texts == {"again-r": "ab", "r2": "x"}
    assert late.reader.texts in ({"r2": "x"}, early.reader.texts)  # whole, or not at all
    assert all("again-r" not in str(each) for each in late.reader.snapshots)


async def test_a_follower_without_subscribe_capability_is_told_so(module_database, conversation):
    key = Key("app", "key", "s" * 32, Capability({"*": ["history", "publish"]}))
    async with LocalAbly(keys=[key]) as server, history_over(module_database, server) as history:
        with pytest.raises(ChannelRefused):
            async with asyncio.timeout(20):
                await anext(history.follow(conversation))


async def test_without_history_capability_what_the_attach_rewinds_is_enough(
    module_database, conversation
):
    whole = Key("app", "whole", "w" * 32)
    narrow = Key("app", "narrow", "n" * 32, Capability({"*": ["subscribe", "publish"]}))
    async with (
        LocalAbly(keys=[whole, narrow]) as server,
        history_over(module_database, server) as recorder,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.stream("old", "stored")
        await recorder.catch_up(conversation)
        await publisher.stream("r", "abc", stop=False)
        settings = settings_for(module_database, server, ably_api_key=narrow.value)
        async with History(settings) as history, reading(history, conversation) as follower:
            reader = await follower.until(lambda r: r.snapshots)
            assert reader.snapshots[0]["complete"]
            await publisher.stream("r", "d", first=4, start=False)
            await follower.until(completed("r"))
    assert reader.texts == {"old": "stored", "r": "abcd"}


async def test_without_history_capability_a_hole_is_told(module_database, conversation):
    whole = Key("app", "whole", "w" * 32)
    narrow = Key("app", "narrow", "n" * 32, Capability({"*": ["subscribe", "publish"]}))
    async with (
        LocalAbly(keys=[whole, narrow]) as server,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.stream("r", "abc")
        settings = settings_for(module_database, server, ably_api_key=narrow.value)
        async with History(settings) as history, reading(history, conversation) as follower:
            reader = await follower.until(lambda r: r.snapshots)
    assert not reader.snapshots[0]["complete"]
    assert reader.snapshots[0]["reasons"][0]["code"] == "history_refused"
