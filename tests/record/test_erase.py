"""Law 8: an erased conversation stays erased."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest

from participants import settings_for
from rehydrate.errors import ChannelUnavailable, Conflict, Fenced
from rehydrate.history import History
from rehydrate.ports import Outgoing
from rehydrate.record import erase as module
from rehydrate.record.import_messages import NewMessage
from waiting import PATIENCE_S


@pytest.fixture
async def another(ably, database):
    """Open a second History over the same database and channels, as another process does."""

    @asynccontextmanager
    async def opened(**more):
        settings = settings_for(
            database,
            ably,
            **more,
        )
        async with History(settings) as history:
            yield history

    return opened


@pytest.fixture
async def history(another):
    async with another() as made:
        yield made


async def publish_message(history, conversation_id, *texts, run="p"):
    for index, text in enumerate(texts):
        data = {"promptId": f"{run}-{index}", "text": text}
        message = Outgoing("user-input", data, f"{run}-id-{index}")
        await history._channel.publish(f"ai:{conversation_id}", [message])


async def token(history, conversation_id, response_id, seq, text):
    extras = {"headers": {"responseId": response_id, "seq": seq, "gen": 1}}
    message = Outgoing("token", text, f"{response_id}:late:{seq}", extras)
    await history._channel.publish(f"ai:{conversation_id}", [message])


async def texts(history, conversation_id):
    return [m["text"] for m in (await history.hydrate(conversation_id)).messages]


async def test_erased_messages_are_in_no_answer_and_are_not_recorded_again(history):
    await publish_message(history, "e1", "a prompt")
    async with history.respond("e1", "r1") as response:
        response.write("an answer")
    assert await texts(history, "e1") == ["a prompt", "an answer"]
    await history.catch_up("e1")
    await history.erase("e1")
    assert await texts(history, "e1") == []
    await history.catch_up("e1")
    assert await texts(history, "e1") == []
    assert (await history.hydrate("e1")).complete


async def test_messages_that_only_the_channel_has_are_erased_too(history):
    await publish_message(history, "e2", "never recorded")
    await history.erase("e2")
    assert await texts(history, "e2") == []
    assert (await history.catch_up("e2")).moved
    assert await texts(history, "e2") == []


async def test_late_messages_of_an_erased_response_do_not_bring_it_back(history):
    await token(history, "e3", "r1", 1, "early")
    await history.catch_up("e3")
    await token(history, "e3", "r2", 1, "early, and not recorded")
    await history.erase("e3")
    await token(history, "e3", "r1", 2, "late")
    await token(history, "e3", "r2", 2, "late")
    assert await texts(history, "e3") == []
    await history.catch_up("e3")
    assert await texts(history, "e3") == []


async def test_new_messages_begin_the_conversation_again(history):
    await publish_message(history, "e4", "old")
    await history.erase("e4")
    await asyncio.sleep(0.01)
    await publish_message(history, "e4", "new", run="q")
    async with history.respond("e4", "r2") as response:
        response.write("answered")
    assert await texts(history, "e4") == ["new", "answered"]
    await history.catch_up("e4")
    assert await texts(history, "e4") == ["new", "answered"]


async def test_a_publisher_is_fenced_and_its_response_is_erased(history):
    with pytest.raises(Fenced):  # noqa: PT012 - raised by its next write
        async with history.respond("e5", "r1") as response:
            response.write("before ")
            await asyncio.sleep(0.7)
            await history.erase("e5")
            response.write("after ")
            await asyncio.sleep(0.8)
            response.write("refused")
    await history.catch_up("e5")
    assert await texts(history, "e5") == []
    assert not await history._store.due(limit=10)


async def test_an_erased_response_cannot_be_published_or_stored_again(history):
    async with history.respond("e6", "r1") as response:
        response.write("x")
    await history.erase("e6")
    with pytest.raises(Conflict):
        async with history.respond("e6", "r1"):
            pass
    with pytest.raises(Conflict):
        await history.store_messages("e6", [NewMessage("r1", "assistant", text="x")])


async def test_a_catch_up_that_read_before_and_commits_after_restores_nothing(history, monkeypatch):
    await publish_message(history, "e7", "one", "two")
    channel = history._channel
    reading, erased = asyncio.Event(), asyncio.Event()
    plain = channel.history

    async def slowly(*arguments, **more):
        async with aclosing(plain(*arguments, **more)) as pages:
            async for page in pages:
                reading.set()
                await erased.wait()
                yield page

    monkeypatch.setattr(channel, "history", slowly)
    running = asyncio.create_task(history.catch_up("e7"))
    await reading.wait()
    monkeypatch.setattr(channel, "history", plain)
    await history.erase("e7")
    erased.set()
    assert not (await running).moved
    assert await texts(history, "e7") == []


async def test_repeating_an_erasure_changes_nothing_and_an_empty_one_creates_no_row(history):
    await publish_message(history, "e8", "x")
    for _ in range(3):
        await history.erase("e8")
    assert await texts(history, "e8") == []
    await history.erase("unknown")
    assert [row.id for row in (await history.conversations())[0]] == ["e8"]


async def test_no_more_of_the_channel_is_read_than_a_tombstone_can_name(history, monkeypatch):
    for number in range(5):
        await token(history, "e10", f"r{number}", 1, "not recorded")
    read_history, pages = history._channel.history, []

    async def by_message(channel, **how):
        async for page in read_history(channel, **how, limit=1):
            pages.append(page)
            yield page

    monkeypatch.setattr(module, "MAX_IDS", 2)
    monkeypatch.setattr(history._channel, "history", by_message)
    await history.erase("e10")
    assert [message.extras["headers"]["responseId"] for page in pages for message in page] == [
        "r4",
        "r3",
        "r2",
    ]


async def test_a_conversation_is_erased_although_ably_does_not_answer(history, ably):
    await publish_message(history, "e9", "x")
    await history.catch_up("e9")
    await ably.stop()
    try:
        await history.erase("e9")
        assert await history._store.states("e9", ["p-0"]) == []
    finally:
        await ably.start()
    for _ in range(20):
        try:
            await history.context.channel.ready()
            break
        except ChannelUnavailable:
            await asyncio.sleep(0.1)
    assert await texts(history, "e9") == []


async def test_followers_in_every_process_receive_an_empty_snapshot(history, another):
    await publish_message(history, "e10", "x")
    await history.catch_up("e10")
    async with (
        another() as elsewhere,
        asyncio.timeout(PATIENCE_S),
        history.joined("e10") as here,
        elsewhere.joined("e10") as there,
    ):
        for follower in (here, there):
            snapshot = await anext(follower)
            assert [m["text"] for m in snapshot.data["messages"]] == ["x"]
        await history.erase("e10")
        for follower in (here, there):
            while (event := await anext(follower)).kind != "snapshot":
                pass
            assert event.data["messages"] == []


async def test_no_content_is_left_in_the_database(history):
    await publish_message(history, "e11", "SECRET prompt")
    async with history.respond("e11", "SECRET-id", metadata={"k": "SECRET"}) as response:
        response.write("SECRET answer")
        await asyncio.sleep(0.7)
        await history.catch_up("e11")
    await history.erase("e11")
    async with history._store._readers._acquired() as session:
        tables = await session.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        )
        for (table,) in tables:
            for (row,) in await session.fetch(f"SELECT t::text FROM {table} AS t"):
                assert "SECRET" not in row
                assert b"SECRET".hex() not in row
