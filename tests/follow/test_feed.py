"""A feed over the channel server: attachments cut, resumed, shared and refused; missing messages."""

from __future__ import annotations

import asyncio
import gc

import pytest
from ably import AblyRest
from ably.types.message import Message
from ably.types.operations import MessageOperation

from localably import Key, LocalAbly, Namespace
from localably.capability import ServerCapability
from participants import attachments, completed, history_over, publisher_to, reading, settings_for
from rehydrate.errors import ChannelRefused
from rehydrate.follow.renewable_task import RenewableTask
from rehydrate.history import History
from rehydrate.publish import respond
from waiting import PATIENCE_S

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
        await publisher.publish_message("user-input", {"promptId": "p", "text": "one"})
        with (
            server.faults.on("refuse_resume") as not_resumed,
            server.faults.on("refuse_continuity") as not_continued,
        ):
            server.cut()
            await publisher.stream("r", "abcdef")
            reader = await follower.until(completed("r"))
    assert not_resumed.fired
    assert not_continued.fired
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
        async with asyncio.timeout(PATIENCE_S):
            while attachments(server, conversation):  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.02)
        assert len(history._subscriptions) == 0


async def test_following_without_subscribe_capability_is_refused(module_database, conversation):
    key = Key("app", "key", "s" * 32, ServerCapability({"*": ["history", "publish"]}))
    async with LocalAbly(keys=[key]) as server, history_over(module_database, server) as history:
        with pytest.raises(ChannelRefused):
            async with asyncio.timeout(PATIENCE_S):
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
        history._subscriptions.cancels(conversation, "r") as requested,
    ):
        await follower.until(lambda r: r.snapshots)
        await publisher.publish_message("cancel", rid="another")
        await publisher.stream("other", "a")
        await follower.until(completed("other"))
        assert not requested.is_set()
        await publisher.publish_message("cancel", rid="r")
        await asyncio.wait_for(requested.wait(), PATIENCE_S)
        assert set(follower.reader.kinds) <= {"snapshot", "start", "token", "stop"}


async def test_a_cancel_published_before_the_attach_is_received(history, conversation, publisher):
    await publisher.publish_message("cancel", rid="r")
    async with history._subscriptions.cancels(conversation, "r") as requested:
        await asyncio.wait_for(requested.wait(), PATIENCE_S)


# -- missing messages -----------------------------------------------------------------------------


async def test_a_refused_token_is_a_gap_until_a_repair_fills_it(history, conversation, publisher):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        await publisher.publish_message("start", rid="r", seq=0)
        await publisher.publish_message("token", "a", rid="r", seq=1)
        await publisher.publish_message("token", "c", rid="r", seq=3)  # Ably refused the second
        await publisher.publish_message("token", "x", rid="other", seq=1)
        reader = await follower.until(lambda r: r.texts.get("r") == "ac")
        assert reader.messages["r"]["gaps"] == [[2, 2]]
        await publisher.publish_message("response-complete", "abc", rid="r", seq=3)
        await publisher.publish_message("stop", rid="r", seq=4)
        await follower.until(completed("r"))
    assert reader.texts == {"r": "abc", "other": "x"}
    assert "again" not in reader.kinds


async def test_a_follower_has_the_whole_ephemeral_response_once_it_has_ended(
    history, module_database, server, conversation, monkeypatch
):
    """Neither the channel nor a checkpoint has the text before the end: as if the store were down."""
    monkeypatch.setattr(respond, "CHECKPOINT_S", 60.0)
    async with history_over(module_database, server) as agent:
        publishing = agent.respond(conversation, "r", ephemeral=True)
        response = await publishing.__aenter__()
        response.write("before, ")
        await asyncio.sleep(0.5)
        async with reading(history, conversation) as follower:
            await follower.until(lambda r: r.snapshots)
            response.write("after, ")
            await follower.until(lambda r: r.texts.get("r") == "after, ")
            response.write("end")
            await publishing.__aexit__(None, None, None)
            await follower.until(lambda r: r.texts == {"r": "before, after, end"})
            await follower.until(completed("r"))
        assert not follower.reader.messages["r"]["gaps"]


async def test_other_responses_continue_while_one_waits_for_missing_tokens(
    history, server, conversation, publisher
):
    with server.faults.on("delay_history", ms=3_000) as delayed:
        async with reading(history, conversation) as follower:
            await follower.until(lambda r: r.snapshots)
            await publisher.publish_message("token", "a", rid="r", seq=1)
            await publisher.publish_message("token", "c", rid="r", seq=3)
            await publisher.stream("other", "goes on")
            reader = await follower.until(completed("other"))
            assert reader.texts["other"] == "goes on"
            assert reader.texts["r"] == "a"
            await publisher.publish_message("token", "b", rid="r", seq=2)  # it was only overtaken
            await publisher.publish_message("stop", rid="r", seq=4)
            await follower.until(completed("r"))
    assert delayed.fired
    assert reader.texts["r"] == "abc"


async def test_reported_dropped_deliveries_lead_to_a_new_snapshot(
    history, server, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        with server.faults.on(
            "drop_deliveries", channel=f"ai:{conversation}", nth=[3, 4], code=80020
        ) as dropped:
            await publisher.stream("r", "abcdef")
        reader = await follower.until(completed("r"))
    assert dropped.fired == 2
    assert reader.texts == {"r": "abcdef"}
    assert "again" in reader.kinds


async def test_silently_dropped_deliveries_are_detected_by_seq(
    history, server, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        with server.faults.on(
            "drop_deliveries", channel=f"ai:{conversation}", nth=[3, 4], silent=True
        ) as dropped:
            await publisher.stream("r", "abcdef")
        reader = await follower.until(completed("r"))
    assert dropped.fired == 2
    assert reader.texts == {"r": "abcdef"}


async def test_without_history_the_stored_part_comes_first_and_the_rest_once_history_answers(
    history, server, conversation, publisher
):
    await publisher.stream("r", "abc", stop=False)
    with server.faults.on("fail_history", status=503) as failed:
        async with reading(history, conversation) as follower:
            reader = await follower.until(lambda r: r.snapshots)
            assert not reader.snapshots[0]["complete"]
            assert reader.snapshots[0]["reasons"][0]["retry"]
            server.faults.clear("fail_history")
            await follower.until(lambda r: r.snapshots[-1]["complete"])
    assert failed.fired
    assert reader.texts == {"r": "abc"}


async def test_a_read_that_is_cancelled_before_it_begins_is_done_again(
    history, conversation, publisher, monkeypatch
):
    """Nothing of the cancelled read may be left: a coroutine without a task would warn."""
    start, cancelled = RenewableTask.start, []

    def cancelled_once(task, work):
        start(task, work)
        if task.name == "reading a conversation" and not cancelled:
            cancelled.append(task._task)
            task._task.cancel()

    monkeypatch.setattr(RenewableTask, "start", cancelled_once)
    await publisher.stream("r", "abc")
    async with reading(history, conversation) as follower:
        reader = await follower.until(completed("r"))
    assert reader.texts == {"r": "abc"}
    assert cancelled[0].cancelled()
    cancelled.clear()
    gc.collect()
