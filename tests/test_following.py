"""Following, over Postgres, the channel server and the stock SDK."""

from __future__ import annotations

import secrets

import pytest

from rehydrate.localably import LocalAbly
from rehydrate.recording import NewMessage
from telling import history_over, publisher_to, reading

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
