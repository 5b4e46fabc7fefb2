"""Refused tokens, cut connections, and readers that leave and join again."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from journeys.readers import assert_shown, by_javascript, by_python, plans, skip_without_node
from journeys.streams import Streams
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow


async def publish_to_readers(stack, history, streams, joins, *, meanwhile=None):
    """Publish *streams* while readers of both kinds read; they must show what was published."""
    target = stack.target(streams.conversation_id)
    async with asyncio.TaskGroup() as group:
        group.create_task(streams.publish(history))
        ours = group.create_task(by_python(target, streams.texts, joins))
        theirs = group.create_task(by_javascript(target, streams.texts, joins))
        if meanwhile is not None:
            group.create_task(meanwhile)
    assert_shown(ours.result() + theirs.result(), streams.texts)


async def attached(http, channel, count):
    """Wait until *channel* has *count* attachments."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            channels = (await http.get("/channels")).json()["channels"]
            if any(c["name"] == channel and c["attachments"] >= count for c in channels):
                return
            await asyncio.sleep(0.05)


async def test_refused_tokens_are_repaired_for_every_reader(stack, history, conversation):
    skip_without_node()
    streams = Streams(conversation, rounds=1)
    joins = plans(streams.seconds, 2)
    channel = stack.settings.channel_of(conversation)
    refused = [8, 9, 20, 30]  # on a busy machine tokens are joined, to few messages
    async with stack.fault("refuse_publish", channel=channel, nth=refused, code=42911) as fired:
        await publish_to_readers(stack, history, streams, joins)
        assert await fired() == len(refused)


async def test_readers_whose_connections_are_cut_show_every_character(stack, history, conversation):
    skip_without_node()
    streams = Streams(conversation)
    joins = plans(0.5, 2)

    async def cut():
        async with httpx.AsyncClient(
            base_url=f"{stack.ably.url}/localably", timeout=PATIENCE_S
        ) as http:
            await attached(http, stack.settings.channel_of(conversation), len(joins))
            assert (await http.post("/cut", json={})).json()["cut"] >= len(joins)
            await asyncio.sleep(1.5)
            await http.post("/cut", json={})  # all that have reconnected

    await publish_to_readers(stack, history, streams, joins, meanwhile=cut())


async def test_readers_that_reload_show_every_character(stack, history, conversation):
    skip_without_node()
    streams = Streams(conversation, rounds=1)
    joins = plans(streams.seconds / 3, 2, reload_s=streams.seconds / 3)
    await publish_to_readers(stack, history, streams, joins)
