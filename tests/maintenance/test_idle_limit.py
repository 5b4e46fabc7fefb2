"""The idle limit of foreign publishers: a provisional end, which later events undo."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from localably import LocalAbly
from participants import settings_for
from rehydrate.history import History
from rehydrate.ports import Outgoing
from waiting import PATIENCE_S

LIMIT_MS = 1000


@pytest.fixture
async def settings(database):
    async with LocalAbly() as ably:
        yield settings_for(
            database,
            ably,
            idle_limit_ms=LIMIT_MS,
        )


@pytest.fixture
async def history(settings):
    async with History(settings) as history:
        yield history


@pytest.fixture
async def other(settings):
    """A second `History` over the same database and channels, as another process has it."""
    async with History(settings) as other:
        yield other


async def publish_message(history, conversation_id, seq, name, text=None):
    headers = {"responseId": "r1", "seq": seq}
    message = Outgoing(name, text, f"id-{seq}", {"headers": headers}, "their-agent")
    await history._channel.publish(f"ai:{conversation_id}", [message])


def longer_than_the_limit_since(published_s):
    """On a busy machine a step of a test may take longer than the limit; then an end is right."""
    return (time.monotonic() - published_s) * 1000 >= LIMIT_MS


async def once(history, conversation_id, status):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (message,) = (await history.hydrate(conversation_id)).messages
            if message["status"] == status:
                return message
            await asyncio.sleep(0.1)


async def test_a_silent_foreign_response_ends_and_a_later_event_reopens_it(history):
    await publish_message(history, "idle", 0, "start")
    await publish_message(history, "idle", 1, "token", "a")
    await history.catch_up("idle")
    assert (await once(history, "idle", "interrupted"))["text"] == "a"
    published_s = time.monotonic()
    await publish_message(history, "idle", 2, "token", "b")
    (message,) = (await history.hydrate("idle")).messages
    assert message["text"] == "ab"
    assert message["status"] == "in_progress" or longer_than_the_limit_since(published_s)
    await history.catch_up("idle")
    assert (await once(history, "idle", "interrupted"))["text"] == "ab"
    await publish_message(history, "idle", 3, "stop")
    await history.catch_up("idle")
    message = await once(history, "idle", "completed")
    assert (message["text"], message["gaps"]) == ("ab", [])
    await asyncio.sleep(2 * LIMIT_MS / 1000)
    assert (await once(history, "idle", "completed"))["text"] == "ab"


async def test_a_follower_in_this_process_receives_the_end(history):
    await publish_message(history, "told", 0, "start")
    await publish_message(history, "told", 1, "token", "a")
    await history.catch_up("told")
    async with asyncio.timeout(PATIENCE_S), history.joined("told") as follower:
        await received_the_end(follower)


async def received_the_end(follower):
    while True:
        event = await anext(follower)
        if event.kind == "snapshot" and event.data["messages"][0]["status"] == "interrupted":
            return


async def test_followers_in_every_process_receive_the_end_whichever_process_ended_it(
    history, other
):
    await publish_message(history, "all", 0, "start")
    await publish_message(history, "all", 1, "token", "a")
    await history.catch_up("all")
    async with (
        asyncio.timeout(PATIENCE_S),
        history.joined("all") as here,
        other.joined("all") as there,
        asyncio.TaskGroup() as group,
    ):
        for follower in (here, there):
            group.create_task(received_the_end(follower))


async def test_a_quiet_response_of_our_own_is_read_again_once_per_limit(history):
    async with history.respond("quiet", "r2") as response, history.joined("quiet") as follower:
        response.write("a thought")
        snapshots = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4 * LIMIT_MS / 1000):
                async for event in follower:
                    snapshots += event.kind == "snapshot"
    assert snapshots <= 4


async def test_a_response_that_continues_is_not_ended(history):
    await publish_message(history, "busy", 0, "start")
    await history.catch_up("busy")
    for seq in range(1, 9):
        published_s = time.monotonic()
        await publish_message(history, "busy", seq, "token", str(seq))
        await asyncio.sleep(0.4)
        (message,) = (await history.hydrate("busy")).messages
        assert message["status"] == "in_progress" or longer_than_the_limit_since(published_s)


async def test_a_response_of_our_own_has_a_lease_instead(history):
    async with history.respond("leased", "r2") as response:
        response.write("a thought")
        await asyncio.sleep(2.5 * LIMIT_MS / 1000)
        (message,) = (await history.hydrate("leased")).messages
        assert message["status"] == "in_progress"
