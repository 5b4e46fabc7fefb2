"""One attachment to a conversation: cut, resumed, shared, refused."""

from __future__ import annotations

import asyncio

import pytest
from ably import AblyRest
from ably.types.message import Message
from ably.types.operations import MessageOperation

from localably import Key, LocalAbly, Namespace
from localably.capability import ServerCapability
from rehydrate.errors import ChannelRefused
from rehydrate.history import History
from telling import attachments, completed, history_over, publisher_to, reading, settings_for

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


async def test_a_cut_connection_is_resumed_without_loss(history, server, conversation, publisher):
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
            while attachments(server, conversation):  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.02)
        assert len(history._following) == 0


async def test_following_without_subscribe_capability_is_refused(module_database, conversation):
    key = Key("app", "key", "s" * 32, ServerCapability({"*": ["history", "publish"]}))
    async with LocalAbly(keys=[key]) as server, history_over(module_database, server) as history:
        with pytest.raises(ChannelRefused):
            async with asyncio.timeout(20):
                await anext(history.follow(conversation))


async def test_without_history_capability_the_rewind_of_the_attach_suffices(
    module_database, conversation
):
    whole = Key("app", "whole", "w" * 32)
    narrow = Key("app", "narrow", "n" * 32, ServerCapability({"*": ["subscribe", "publish"]}))
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


async def test_without_history_capability_a_hole_is_reported(module_database, conversation):
    whole = Key("app", "whole", "w" * 32)
    narrow = Key("app", "narrow", "n" * 32, ServerCapability({"*": ["subscribe", "publish"]}))
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


async def test_appends_to_one_channel_message_are_emitted_as_the_appended_text(
    module_database, conversation
):
    growing = Namespace("ai", persisted=True, mutable=True)
    async with (
        LocalAbly(namespaces=[growing]) as server,
        history_over(module_database, server) as history,
        AblyRest(
            key=server.key, use_token_auth=True, endpoint="127.0.0.1", port=server.port, tls=False
        ) as rest,
    ):
        channel = rest.channels.get(f"ai:{conversation}")
        extras = {"headers": {"responseId": "r"}}
        made = await channel.publish(Message(name="response", data="語", extras=extras))
        first, *rest_of = (
            Message(serial=made.serials[0], data=d, extras=extras) for d in "おはよう"
        )
        async with reading(history, conversation) as early:
            reader = await early.until(lambda r: r.texts.get("r") == "語")
            await channel.append_message(first)
            async with reading(history, conversation) as late:
                await late.until(lambda r: r.snapshots)
                for message in rest_of:
                    await channel.append_message(message)
                done = MessageOperation(metadata={"phase": "done"})
                last = Message(serial=made.serials[0], data="!", extras=extras)
                await channel.append_message(last, done)
                await early.until(completed("r"))
                await late.until(completed("r"))
    assert reader.texts == late.reader.texts == {"r": "語おはよう!"}
    assert "repair" not in reader.kinds
    assert len(reader.snapshots) == 1


async def test_a_cancel_reaches_the_response_that_it_names_and_no_follower(
    history, conversation, publisher
):
    async with (
        reading(history, conversation) as follower,
        history._following.cancels(conversation, "r") as requested,
    ):
        await follower.until(lambda r: r.snapshots)
        await publisher.say("cancel", rid="another")
        await publisher.stream("other", "a")
        await follower.until(completed("other"))
        assert not requested.is_set()
        await publisher.say("cancel", rid="r")
        await asyncio.wait_for(requested.wait(), 15)
        assert set(follower.reader.kinds) <= {"snapshot", "start", "token", "stop"}


async def test_a_cancel_published_before_the_attach_is_received(history, conversation, publisher):
    await publisher.say("cancel", rid="r")
    async with history._following.cancels(conversation, "r") as requested:
        await asyncio.wait_for(requested.wait(), 15)
