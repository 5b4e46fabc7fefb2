"""Readers that join three interleaved streams at any time, in each of the three ways."""

from __future__ import annotations

import asyncio

import pytest

from journeys.readers import assert_shown, by_javascript, by_python, plans, skip_without_node
from journeys.streams import Streams

pytestmark = pytest.mark.slow


async def published(streams, history, readers):
    """Publish *streams* while *readers* read; return what they showed."""
    async with asyncio.TaskGroup() as group:
        group.create_task(streams.publish(history))
        reading = group.create_task(readers)
    return reading.result()


async def test_python_readers_show_every_response_whole(stack, history, conversation):
    streams = Streams(conversation)
    joins = plans(streams.seconds, 5)
    readers = by_python(stack.target(conversation), streams.texts, joins)
    assert_shown(await published(streams, history, readers), streams.texts)


async def test_javascript_readers_show_every_response_whole(stack, history, conversation):
    skip_without_node()
    streams = Streams(conversation)
    joins = plans(streams.seconds, 8)
    readers = by_javascript(stack.target(conversation), streams.texts, joins)
    assert_shown(await published(streams, history, readers), streams.texts)
