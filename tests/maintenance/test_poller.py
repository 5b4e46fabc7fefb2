"""Poller: conversations are recorded although no webhook announced their messages."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from participants import settings_for
from rehydrate.errors import StoreUnavailable
from rehydrate.history import History
from rehydrate.maintenance.poller import Poller
from rehydrate.ports import Outgoing
from waiting import PATIENCE_S


async def until(condition, *, within_s=PATIENCE_S):
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(database, ably, **more):
    settings = settings_for(
        database,
        ably,
        **more,
    )
    async with History(settings) as history:
        yield history


async def publish_message(history, channel, text, id_="p-1"):
    data = {"promptId": id_, "text": text}
    await history._channel.publish(channel, [Outgoing("user-input", data, f"id-{id_}")])


async def recorded(history, conversation_id):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            page = (await history._store.load(conversation_id, limit=10, before=None)).finished
            if page:
                return [row.id for row in page]
            await asyncio.sleep(0.05)


async def test_a_conversation_in_use_is_woken_for_a_while():
    woken = []

    async def find():
        return []

    poller = Poller(find, woken.append, every_s=0.02, for_s=0.1)
    poller.attend("c")
    assert woken == ["c"]
    poller.open()
    poller.open()
    await until(lambda: len(woken) >= 3)
    await until(lambda: not len(poller._until_s))
    await poller.close()
    await poller.close()


async def test_overdue_conversations_are_woken_and_a_failure_does_not_end_the_poller(caplog):
    woken, answers = [], [StoreUnavailable("away"), KeyError("secret"), ["c"]]

    async def find():
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    poller = Poller(find, woken.append, every_s=0.01, for_s=1)
    poller.open()
    await until(lambda: woken)
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
    await poller.close()


async def test_conversations_that_this_process_publishes_in_are_recorded_with_other_messages(
    database, ably
):
    async with opened(database, ably) as history:
        await publish_message(history, "ai:own", "a prompt")
        async with history.respond("own", "r-1") as response:
            response.write("an answer")
        async with asyncio.timeout(PATIENCE_S):
            while len(ids := await recorded(history, "own")) < 2:  # noqa: ASYNC110 - there is no event to await
                await asyncio.sleep(0.05)
        assert set(ids) == {"p-1", "r-1"}


async def test_messages_that_were_never_announced_are_recorded_by_the_poller(database, ably):
    async with opened(database, ably) as history:
        async with history._store.locked("quiet", "ai:quiet"):
            pass  # the row of a new conversation, which is not used again
        await publish_message(history, "ai:quiet", "unannounced")
    async with opened(database, ably, retention_ms=2000) as history:
        assert await recorded(history, "quiet") == ["p-1"]
