"""What the queries of the background tasks find first never hides the rest."""

from __future__ import annotations

import asyncio

import pytest

from contracts.messages import event_of, finished
from participants import history_over, publisher_to
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.window import Watermark
from rehydrate.maintenance import tasks as module
from shared_adapters import now_ms
from waiting import until

MANY = 100
MINUTE_MS = 60_000


@pytest.fixture(params=[10, 1_000], ids=["many pages", "one page"])
def page(request, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", request.param)


def foreign(message_id, began_ms, last_ms):
    """An open response of a publisher without a lease."""
    state = MessageState(message_id)
    fold(state, event_of("start", message_id, 0)._replace(timestamp_ms=began_ms))
    fold(state, event_of("token", message_id, 1, text="a")._replace(timestamp_ms=last_ms))
    return state


async def read_until_now(locked, at_ms):
    await locked.move(Watermark(None, at_ms, at_ms), None)


@pytest.mark.usefixtures("page")
async def test_many_responses_that_go_on_hide_no_silent_one_from_the_idle_limit(
    store, database, server
):
    began_ms = now_ms() - 3 * MINUTE_MS
    for number in range(MANY):
        async with store.locked(f"a{number:03}", f"ai:a{number:03}") as locked:
            await locked.put([foreign("r", began_ms, now_ms() + MINUTE_MS)])
            await read_until_now(locked, now_ms())
    async with store.locked("silent", "ai:silent") as locked:
        await locked.put([foreign("r", began_ms + MINUTE_MS, began_ms + MINUTE_MS)])
        await read_until_now(locked, now_ms())
    looked_at = []
    async with history_over(database, server, idle_limit_ms=1000) as history:
        plain = history._maintenance._record

        async def record(conversation_id):
            looked_at.append(conversation_id)
            return await plain(conversation_id)

        history._maintenance._record = record

        async def ended():
            return (await store.states("silent", ["r"]))[0].status == "interrupted"

        await until(ended, within_s=30)
    assert set(looked_at) == {"silent"}  # the others are not even locked
    assert {state.status for state in await store.states("a000", ["r"])} == {"in_progress"}


@pytest.mark.usefixtures("page")
async def test_many_conversations_whose_history_fails_hide_no_other_from_recording(
    store, database, server
):
    for number in range(MANY):
        async with store.locked(f"a{number:03}", f"ai:a{number:03}"):
            pass
    async with store.locked("b", "ai:b") as locked:
        await locked.put([finished("m", "1")])
        await read_until_now(locked, now_ms() - MINUTE_MS)  # read later than those, which never are
    failed = set()
    async with (
        history_over(database, server, retention_ms=8_000) as history,
        publisher_to(server, "ai:b") as publisher,
    ):
        plain = history._maintenance._recorder._record

        async def record(conversation_id):
            if conversation_id.startswith("a"):
                failed.add(conversation_id)
                await asyncio.sleep(0.2)
                raise TimeoutError
            return await plain(conversation_id)

        history._maintenance._recorder._record = record
        await publisher.publish_message("user-input", {"promptId": "p", "text": "hi"})
        await until(lambda: store.states("b", ["p"]), within_s=40)
        await until(lambda: len(failed) == MANY, within_s=40)


async def test_a_turn_reads_some_pages_and_the_next_one_continues():
    rows = [f"{number:02}" for number in range(25)]

    async def page(after):
        found = [row for row in rows if row > after][:5]
        return found, found[-1] if len(found) == 5 and found[-1] != rows[-1] else None

    rotation = module._Rotation("")
    assert await rotation.turn(page, most=2) == rows[:10]
    assert await rotation.turn(page, most=2) == rows[10:20]
    assert await rotation.turn(page, most=2) == rows[20:]
    assert await rotation.turn(page, most=2) == rows[:10]
