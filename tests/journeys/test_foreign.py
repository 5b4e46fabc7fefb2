"""Foreign publishers: a message per token, without seq and without start."""

from __future__ import annotations

import asyncio
import random

import pytest
from ably import AblyRealtime
from ably.types.message import Message

from journeys.readers import (
    MODULES,
    assert_shown,
    by_javascript,
    by_python,
    plans,
    run_node,
    skip_without_node,
)
from rehydrate.demo.texts import tokens_of

pytestmark = pytest.mark.slow

PAUSE_S = 0.05


async def by_ably_python(stack, channel, streams, *, stop):
    """Publish *streams* concurrently (response id to tokens; None: without a response id)."""
    ably = AblyRealtime(
        key=stack.environment["ABLY_API_KEY"],
        endpoint=f"127.0.0.1:{stack.settings.ably_port}",
        tls=False,
    )
    try:
        out = ably.channels.get(channel)
        async with asyncio.TaskGroup() as group:
            for response_id, tokens in streams.items():
                group.create_task(_publish(out, response_id, tokens, stop=stop))
    finally:
        await ably.close()


async def _publish(channel, response_id, tokens, *, stop):
    extras = {"headers": {"responseId": response_id}} if response_id else None
    first = f"{channel.name.removeprefix('ai:')}-first"  # the first event gives a message its id
    for index, token in enumerate(tokens):
        id_ = None if response_id or index else first
        await channel.publish(Message(name="token", data=token, extras=extras, id=id_))
        await asyncio.sleep(PAUSE_S * random.uniform(0.5, 1.5))
    if stop:
        await channel.publish(Message(name="stop", extras=extras))


async def test_two_streams_of_ably_python_without_an_end_stay_open_and_whole(stack, conversation):
    skip_without_node()
    streams = {id_: tokens_of(f"{conversation}{id_}", mean=60) for id_ in ("one", "two")}
    texts = {id_: "".join(tokens) for id_, tokens in streams.items()}
    target = stack.target(conversation)
    joins, more = plans(3, 2), plans(3, 2)
    async with asyncio.TaskGroup() as group:
        group.create_task(by_ably_python(stack, target.channel, streams, stop=False))
        ours = group.create_task(by_python(target, texts, joins, status="in_progress"))
        theirs = group.create_task(by_javascript(target, texts, more, status="in_progress"))
    assert_shown(ours.result() + theirs.result(), texts, "in_progress")


async def test_a_stream_of_ably_js_ends_completed_and_whole(stack, conversation):
    skip_without_node()
    tokens = tokens_of(conversation, mean=60)
    texts = {"foreign": "".join(tokens)}
    target = stack.target(conversation)
    joins, more = plans(3, 2), plans(3, 2)
    job = {
        "modules": str(MODULES),
        "options": {"endpoint": "127.0.0.1", "port": stack.settings.ably_port, "tls": False},
        "key": stack.environment["ABLY_API_KEY"],
        "channel": target.channel,
        "response_id": "foreign",
        "tokens": tokens,
        "pause_ms": PAUSE_S * 1000,
    }
    async with asyncio.TaskGroup() as group:
        group.create_task(run_node("publisher.mjs", job))
        ours = group.create_task(by_python(target, texts, joins))
        theirs = group.create_task(by_javascript(target, texts, more))
    assert_shown(ours.result() + theirs.result(), texts)


async def test_a_stream_without_response_id_is_one_message(stack, conversation):
    skip_without_node()
    tokens = tokens_of(conversation, mean=60)
    texts = {f"{conversation}-first": "".join(tokens)}
    target = stack.target(conversation)
    joins, more = plans(3, 2), plans(3, 2)
    async with asyncio.TaskGroup() as group:
        group.create_task(by_ably_python(stack, target.channel, {None: tokens}, stop=True))
        ours = group.create_task(by_python(target, texts, joins))
        theirs = group.create_task(by_javascript(target, texts, more))
    assert_shown(ours.result() + theirs.result(), texts)


async def test_history_that_lags_hides_nothing_of_a_stream_without_numbers(stack, conversation):
    skip_without_node()
    tokens = tokens_of(conversation, mean=60)
    texts = {"lagging": "".join(tokens)}
    target = stack.target(conversation)
    joins, more = plans(3, 2), plans(3, 2)
    async with (
        stack.fault("delay_history", channel=target.channel, ms=1500),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(by_ably_python(stack, target.channel, {"lagging": tokens}, stop=True))
        ours = group.create_task(by_python(target, texts, joins))
        theirs = group.create_task(by_javascript(target, texts, more))
    assert_shown(ours.result() + theirs.result(), texts)
