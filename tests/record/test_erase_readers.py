"""What live readers of a real service show: also of strangers, and of what was erased before they joined."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from ably import AblyRealtime
from ably.types.message import Message

from appending import appender_to
from participants import settings_for
from rehydrate import join, joining
from rehydrate.history import History
from waiting import PATIENCE_S, until


@pytest.fixture
async def opened(ably, database):
    @asynccontextmanager
    async def open_history(**more):
        async with History(settings_for(database, ably, **more)) as history:
            yield history

    return open_history


@pytest.fixture
async def clients(ably):
    """Return a new stock client, which is closed after the test."""
    made = []

    def client(**options):
        options = {"key": ably.key} | options
        made.append(AblyRealtime(endpoint=f"127.0.0.1:{ably.port}", tls=False, **options))
        return made[-1]

    yield client
    for each in made:
        await each.close()


class Loads:
    """Hydrates with a `History`, and counts how often."""

    def __init__(self, history, conversation_id):
        self.count = 0
        self._history, self._id = history, conversation_id

    async def __call__(self, *, until=None):
        self.count += 1
        return json.loads((await self._history.hydrate(self._id, until=until)).body)


async def say(channel, name, data=None, **headers):
    await channel.publish(
        Message(name=name, data=data, extras={"headers": headers} if headers else None)
    )


async def live(conversation, whole=lambda _: True):
    async with asyncio.timeout(PATIENCE_S):
        async for view in conversation:
            if view.is_live and whole(view):
                return [(message["id"], message["text"]) for message in view.messages]
    raise AssertionError("the iteration ended")


async def test_live_readers_show_the_agents_text_in_spite_of_a_strangers_early_token(
    opened, clients
):
    async with opened(REHYDRATE_AGENT_CLIENT_IDS="agent") as history:
        load = Loads(history, "s")
        async with join(clients().channels.get("ai:s"), load) as conversation:
            await live(conversation)
            stranger = clients(client_id="ann").channels.get("ai:s")
            await say(stranger, "token", "stranger's", responseId="r", seq=1, gen=7)
            async with history.respond("s", "r") as response:
                response.write("agent's")
            shown = await live(
                conversation,
                lambda view: view.messages and view.messages[0]["status"] == "completed",
            )
        assert shown == [("r", "agent's")]
        assert load.count == 1


async def test_a_reader_who_joins_again_while_history_lags_shows_every_token(opened, clients, ably):
    """Without seqs nothing shows a gap: only the overlap with a new attach keeps the text whole."""
    tokens = [f"{number}," for number in range(200)]
    out, client = clients().channels.get("ai:l"), clients()

    async def publish():
        await say(out, "start", responseId="r")
        for token in tokens:
            await say(out, "token", token, responseId="r")
            await asyncio.sleep(0.02)
        await say(out, "stop", responseId="r")

    async with opened() as history:
        load = Loads(history, "l")
        with ably.faults.on("delay_history", ms=1_500):
            publishing = asyncio.create_task(publish())
            while not publishing.done():
                async with join(client.channels.get("ai:l"), load) as conversation:
                    shown = await live(conversation)
                    await asyncio.sleep(0.1)
                    shown = [(m["id"], m["text"]) for m in conversation.view.messages]
                assert "".join(tokens).startswith("".join(text for _, text in shown))
            await publishing
            async with join(client.channels.get("ai:l"), load) as conversation:
                await until(
                    lambda: (
                        (view := conversation.view)
                        and [m["status"] for m in view.messages] == ["completed"]
                    )
                )
                (message,) = conversation.view.messages
        assert (message["text"], message["exact"]) == ("".join(tokens), True)


STREAMS = {
    "numbered": lambda seq: {"responseId": "r", "seq": seq},
    "unnumbered": lambda seq: {"responseId": "r"},
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("rewind", ["10s", "1s"], ids=["within the rewind", "later"])
async def test_a_reader_who_joins_after_an_erasure_shows_nothing_of_it_and_hydrates_once(
    opened, clients, monkeypatch, kind, rewind
):
    """The publisher goes on: its rest is erased too."""
    monkeypatch.setattr(joining, "REWIND", rewind)
    out = clients().channels.get("ai:e")
    async with opened() as history:
        await say(out, "user-input", {"promptId": "p", "text": "erased"})
        await say(out, "start", **STREAMS[kind](0), promptId="p")
        await say(out, "token", "erased", **STREAMS[kind](1))
        await history.catch_up("e")
        await history.erase("e")
        if rewind == "1s":
            await asyncio.sleep(1.2)  # longer than the rewind
        for seq in (2, 3):
            await say(out, "token", "rest", **STREAMS[kind](seq))
        load = Loads(history, "e")
        async with join(clients().channels.get("ai:e"), load) as conversation:
            assert await live(conversation) == []
            for seq in range(4, 24):
                await say(out, "token", "rest", **STREAMS[kind](seq))
            await say(out, "stop", **STREAMS[kind](24))
            await say(out, "start", responseId="n", seq=0)
            await say(out, "token", "new", responseId="n", seq=1)
            await until(lambda: [m["text"] for m in conversation.view.messages] == ["new"])
        assert load.count == 1
        await history.catch_up("e")
        assert [m["id"] for m in (await history.hydrate("e")).messages] == ["n"]


async def test_a_reader_who_meets_only_the_rest_of_an_erased_response_hydrates_once_more(
    opened, clients
):
    """It joins before the rest is published, and long after the beginning."""
    out = clients().channels.get("ai:e")
    async with opened() as history:
        await say(out, "start", responseId="r", seq=0)
        await history.catch_up("e")
        await history.erase("e")
        load = Loads(history, "e")
        async with join(clients().channels.get("ai:e"), load) as conversation:
            assert await live(conversation) == []
            answer = await load()
            assert "erased_ids" not in answer
            for seq in range(1, 30):
                await say(out, "token", "rest", responseId="r", seq=seq)
            await say(out, "start", responseId="n", seq=0)
            await until(lambda: [m["id"] for m in conversation.view.messages] == ["n"])
        assert load.count <= 3


async def test_the_appends_to_an_erased_message_are_dropped(opened, clients, ably):
    out = clients().channels.get("mutable:e")
    async with (
        opened(REHYDRATE_CHANNEL_TEMPLATE="mutable:{conversation_id}") as history,
        appender_to(ably, "mutable:e") as appender,
    ):
        serial = await appender.create("r", "erased")
        await history.catch_up("e")
        await history.erase("e")
        load = Loads(history, "e")
        async with join(clients().channels.get("mutable:e"), load) as conversation:
            assert await live(conversation) == []
            for _ in range(5):
                await appender.append(serial, " rest")
            await say(out, "start", responseId="n", seq=0)
            await until(lambda: [m["id"] for m in conversation.view.messages] == ["n"])
        assert load.count == 1
        await history.catch_up("e")
        assert [m["id"] for m in (await history.hydrate("e")).messages] == ["n"]


@pytest.mark.parametrize("rewind", ["10s", "1s"], ids=["within the rewind", "later"])
@pytest.mark.parametrize("recorded", [True, False])
async def test_the_rest_of_an_erased_anonymous_stream_is_no_message(
    opened, clients, monkeypatch, rewind, recorded
):
    monkeypatch.setattr(joining, "REWIND", rewind)
    out = clients().channels.get("ai:e")
    async with opened() as history:
        await say(out, "start")
        await say(out, "token", "erased")
        if recorded:
            await history.catch_up("e")
        await history.erase("e")
        if rewind == "1s":
            await asyncio.sleep(1.2)  # longer than the rewind
        await say(out, "token", "rest")
        await history.catch_up("e")
        load = Loads(history, "e")
        async with join(clients().channels.get("ai:e"), load) as conversation:
            assert await live(conversation) == []
            for _ in range(5):
                await say(out, "token", "rest")
            await say(out, "stop")
            await history.catch_up("e")
            await say(out, "token", "new")
            await until(lambda: [m["text"] for m in conversation.view.messages] == ["new"])
        assert load.count == 1
        assert [m["text"] for m in (await history.hydrate("e")).messages] == ["new"]
        await history.catch_up("e")
        assert [m["text"] for m in (await history.hydrate("e")).messages] == ["new"]


async def test_an_anonymous_stream_that_begins_after_the_erasure_is_a_message(opened, clients):
    out = clients().channels.get("ai:e")
    async with opened() as history:
        for name in ("start", "stop"):
            await say(out, name, responseId="r")
        await say(out, "token", "erased")
        await say(out, "stop")
        await history.erase("e")
        await say(out, "token", "new")
        assert [m["text"] for m in (await history.hydrate("e")).messages] == ["new"]
        await history.catch_up("e")
        async with join(clients().channels.get("ai:e"), Loads(history, "e")) as conversation:
            await live(conversation)
            await until(lambda: [m["text"] for m in conversation.view.messages] == ["new"])
