"""What goes wrong on the way: refused tokens, cut connections, readers who leave and come back."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from journeys.readers import by_javascript, by_python, must_show, plans, skip_without_node
from journeys.streams import Streams

pytestmark = pytest.mark.slow


async def everybody(stack, history, streams, folder, joins, *, meanwhile=None):
    """Publish *streams* while readers of both kinds read; they must show the truth."""
    target = stack.target(streams.conversation_id)
    async with asyncio.TaskGroup() as group:
        group.create_task(streams.publish(history))
        ours = group.create_task(by_python(target, streams.texts, joins))
        theirs = group.create_task(by_javascript(folder, target, streams.texts, joins))
        if meanwhile is not None:
            group.create_task(meanwhile)
    must_show(ours.result() + theirs.result(), streams.texts)


async def test_tokens_that_ably_refuses_are_made_good_for_every_reader(
    stack, history, conversation, tmp_path
):
    skip_without_node()
    streams = Streams(conversation, rounds=1)
    joins = plans(streams.seconds, 2)
    channel = stack.settings.channel_of(conversation)
    refused = [20, 21, 50, 80]
    async with stack.fault("refuse_publish", channel=channel, nth=refused, code=42911) as fired:
        await everybody(stack, history, streams, tmp_path, joins)
        assert await fired() == len(refused)


async def test_readers_whose_connections_are_cut_show_the_truth(
    stack, history, conversation, tmp_path
):
    skip_without_node()
    streams = Streams(conversation, rounds=1)
    joins = plans(1, 2)

    async def cut():
        async with httpx.AsyncClient() as http:
            for _ in range(2):
                await asyncio.sleep(1.5)
                cut = await http.post(f"{stack.ably.url}/localably/cut", json={})
                assert cut.json()["cut"] >= len(joins)

    await everybody(stack, history, streams, tmp_path, joins, meanwhile=cut())


async def test_readers_who_reload_show_the_truth(stack, history, conversation, tmp_path):
    skip_without_node()
    streams = Streams(conversation, rounds=1)
    joins = plans(streams.seconds / 3, 2, reload_s=streams.seconds / 3)
    await everybody(stack, history, streams, tmp_path, joins)
