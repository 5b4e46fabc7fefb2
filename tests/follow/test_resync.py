"""What followers receive while messages are missing, and after they were recovered."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.publish import respond
from telling import completed, history_over, reading

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


async def test_a_refused_token_is_a_gap_until_a_repair_fills_it(history, conversation, publisher):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        await publisher.say("start", rid="r", seq=0)
        await publisher.say("token", "a", rid="r", seq=1)
        await publisher.say("token", "c", rid="r", seq=3)  # Ably refused the second
        await publisher.say("token", "x", rid="other", seq=1)
        reader = await follower.until(lambda r: r.texts.get("r") == "ac")
        assert reader.messages["r"]["gaps"] == [[2, 2]]
        await publisher.say("response-complete", "abc", rid="r", seq=3)
        await publisher.say("stop", rid="r", seq=4)
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
    with server.faults.on("delay_history", ms=3_000):
        async with reading(history, conversation) as follower:
            await follower.until(lambda r: r.snapshots)
            await publisher.say("token", "a", rid="r", seq=1)
            await publisher.say("token", "c", rid="r", seq=3)
            await publisher.stream("other", "goes on")
            reader = await follower.until(completed("other"))
            assert reader.texts["other"] == "goes on"
            assert reader.texts["r"] == "a"
            await publisher.say("token", "b", rid="r", seq=2)  # it was only overtaken
            await publisher.say("stop", rid="r", seq=4)
            await follower.until(completed("r"))
    assert reader.texts["r"] == "abc"


async def test_reported_dropped_deliveries_lead_to_a_new_snapshot(
    history, server, conversation, publisher
):
    async with reading(history, conversation) as follower:
        await follower.until(lambda r: r.snapshots)
        with server.faults.on(
            "drop_deliveries", channel=f"ai:{conversation}", nth=[3, 4], code=80020
        ):
            await publisher.stream("r", "abcdef")
        reader = await follower.until(completed("r"))
    assert reader.texts == {"r": "abcdef"}
    assert "again" in reader.kinds


async def test_silently_dropped_deliveries_are_detected_by_seq(
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


async def test_without_history_the_stored_part_comes_first_and_the_rest_once_history_answers(
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
