"""The adapter as a whole: lazy, quiet, clean."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ably_channel import opened
from rehydrate.ably.channel_log import AblyChannel
from rehydrate.errors import NotConfigured
from rehydrate.ports import Discontinuity, Outgoing

C = "ai:conv"


async def test_nothing_is_connected_before_it_is_needed(server, log):
    assert not server.hub.connections
    await log.ready()
    assert not server.hub.connections
    await log.publish(C, [Outgoing("token", "x", "1")])
    assert len(server.hub.connections) == 1


def test_a_key_that_is_none_is_refused_at_once():
    with pytest.raises(NotConfigured):
        AblyChannel("nonsense")


async def test_neither_tokens_nor_texts_nor_the_key_get_into_the_log(server, caplog):
    caplog.set_level(logging.DEBUG)  # of the root: what an application does
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
    assert token.partition(".")[0] not in logged  # the beginning of every token of ours


def test_an_application_that_wants_the_log_of_the_sdk_has_it():
    sdk = logging.getLogger("ably")
    before = sdk.level
    try:
        sdk.setLevel(logging.INFO)
        AblyChannel("a.b:" + "c" * 32)
        assert sdk.level == logging.INFO
    finally:
        sdk.setLevel(before)


async def test_closing_ends_every_task_whatever_is_going_on(server):
    # `opened` waits until none is left
    async with opened(server) as log, log.subscribe(C, rewind="1m"), log.subscribe(C):
        for n in range(50):
            log.publish(C, [Outgoing("token", "x", f"i-{n}")]).add_done_callback(_seen)
        server.cut()
        await log.close()
    async with opened(server) as log:
        await log.publish(C, [Outgoing("token", "x", "last")])
        await server.stop()


async def test_closing_what_was_never_used_is_fine(server):
    async with opened(server):
        pass


async def test_one_adapter_serves_many_at_once(server, log):
    async def converse(n):
        async with log.subscribe(f"ai:{n}") as subscription:
            answers = [
                log.publish(f"ai:{n}", [Outgoing("token", f"{n}.{k}", f"{n}-{k}")])
                for k in range(20)
            ]
            got = [(await anext(subscription)).data for _ in range(20)]
            await asyncio.gather(*answers)
            return got

    async with asyncio.timeout(30):
        talks = await asyncio.gather(*(converse(n) for n in range(30)))
    assert talks == [[f"{n}.{k}" for k in range(20)] for n in range(30)]


def _seen(answer):
    if not answer.cancelled():
        answer.exception()
