"""`AblyChannel` as a whole: connects lazily, logs no secrets, leaves no tasks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ably_channel import opened
from rehydrate.ably.channel_log import AblyChannel
from rehydrate.errors import NotConfigured
from rehydrate.ports import Discontinuity, Outgoing
from waiting import PATIENCE_S

C = "ai:conv"


async def test_nothing_is_connected_before_first_use(server, log):
    assert not server.hub.connections
    await log.ready()
    assert not server.hub.connections
    await log.publish(C, [Outgoing("token", "x", "1")])
    assert len(server.hub.connections) == 1


def test_an_invalid_key_is_refused_at_once():
    with pytest.raises(NotConfigured):
        AblyChannel("nonsense")


async def test_tokens_text_and_the_key_are_not_logged(server, caplog):
    caplog.set_level(logging.DEBUG)  # on the root logger, as an application would
    logging.getLogger("ably").setLevel(logging.NOTSET)
    async with opened(server) as log:
        async with log.subscribe(C) as subscription:
            await log.publish(C, [Outgoing("token", "a secret text", "1")])
            await anext(subscription)
            server.faults.set("refuse_continuity")
            server.cut()
            while not isinstance(await anext(subscription), Discontinuity):
                pass
        assert await log.publish(C, [Outgoing("token", "a secret text", "2")])
        token = (await log._credentials.details()).token
    logged = caplog.text
    assert "a secret text" not in logged
    assert server.key.partition(":")[2] not in logged
    assert token.partition(".")[0] not in logged  # the header, common to all of these tokens


def test_an_application_can_enable_the_sdks_log():
    sdk = logging.getLogger("ably")
    before = sdk.level
    try:
        sdk.setLevel(logging.INFO)
        AblyChannel("a.b:" + "c" * 32)
        assert sdk.level == logging.INFO
    finally:
        sdk.setLevel(before)


async def test_closing_ends_every_task_at_any_moment(server):
    # `opened` waits until no task is left
    async with opened(server) as log, log.subscribe(C, rewind="1m"), log.subscribe(C):
        for n in range(50):
            log.publish(C, [Outgoing("token", "x", f"i-{n}")]).add_done_callback(_seen)
        server.cut()
        await log.close()
    async with opened(server) as log:
        await log.publish(C, [Outgoing("token", "x", "last")])
        await server.stop()


async def test_an_unused_channel_log_can_be_closed(server):
    async with opened(server):
        pass


async def test_one_channel_log_serves_many_conversations(server, log):
    async def converse(n):
        async with log.subscribe(f"ai:{n}") as subscription:
            answers = [
                log.publish(f"ai:{n}", [Outgoing("token", f"{n}.{k}", f"{n}-{k}")])
                for k in range(20)
            ]
            got = [(await anext(subscription)).data for _ in range(20)]
            await asyncio.gather(*answers)
            return got

    async with asyncio.timeout(PATIENCE_S):
        talks = await asyncio.gather(*(converse(n) for n in range(30)))
    assert talks == [[f"{n}.{k}" for k in range(20)] for n in range(30)]


def _seen(answer):
    if not answer.cancelled():
        answer.exception()
