"""History under faults; without faults it is covered by the contract tests."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from ably_channel import opened
from localably import Key, LocalAbly
from rehydrate.ably.history import messages_path
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.ports import Outgoing

C = "ai:conv"


async def fill(log, count):
    serials = []
    for first in range(0, count, 500):  # few enough to be acknowledged in time on a busy machine
        numbers = range(first, min(count, first + 500))
        answers = [log.publish(C, [Outgoing("token", str(n), f"i-{n}")]) for n in numbers]
        serials += [serial for answer in answers for serial in await answer]
    return serials


async def read(log, **how):
    async with aclosing(log.history(C, **how)) as pages:
        return [[m.data for m in page] async for page in pages]


def test_a_channel_may_have_any_name():
    assert messages_path("ai:a/b ?#%+語") == "/channels/ai%3Aa%2Fb%20%3F%23%25%2B%E8%AA%9E/messages"


async def test_six_thousand_messages_arrive_in_six_pages_each_once(log):
    await fill(log, 6000)
    pages = await read(log)
    assert [len(page) for page in pages] == [1000] * 6
    assert [int(data) for page in reversed(pages) for data in page] == list(range(6000))


async def test_a_caller_may_stop_early(log, server):
    await fill(log, 30)
    async with aclosing(log.history(C, limit=10)) as pages:
        async for page in pages:
            assert [m.data for m in page] == [str(n) for n in range(20, 30)]
            break


@pytest.mark.parametrize("code", [90008, 90002, 40024])
async def test_a_refused_attach_point_falls_back_to_plain_history(server, log, code):
    serials = await fill(log, 30)
    server.faults.set("refuse_until_attach", code=code)
    assert await read(log, until=serials[9], limit=100) == [[str(n) for n in range(30)]]


async def test_an_attach_point_that_expires_during_the_read_continues_without_it(server, log):
    serials = []
    for begin in range(3):  # at three timestamps, because plain history continues by timestamp
        serials += await fill(log, (begin + 1) * 10)
        await asyncio.sleep(0.02)
    server.faults.set("refuse_until_attach", after=1)
    pages = await read(log, until=serials[-1], limit=10)
    got = [int(data) for page in pages for data in page]
    assert sorted(set(got)) == list(range(30))
    assert pages[0] == [str(n) for n in range(20, 30)]


async def test_another_refusal_does_not_fall_back(server, log):
    serials = await fill(log, 3)
    server.faults.set("refuse_until_attach", code=40160)
    with pytest.raises(ChannelRefused) as caught:
        await read(log, until=serials[-1])
    assert caught.value.ably_code == 40160


async def test_a_page_that_fails_once_is_retried(server, log):
    await fill(log, 30)
    fault = server.faults.set("fail_history", every=2)
    assert len(await read(log, limit=10)) == 3
    assert fault.fired >= 1


async def test_history_that_keeps_failing_is_unavailable(server, log):
    await fill(log, 3)
    server.faults.set("fail_history", status=503)
    with pytest.raises(ChannelUnavailable) as caught:
        await read(log)
    assert not isinstance(caught.value, ChannelRefused)


async def test_a_key_that_may_not_read_is_refused():
    key = Key.make(capability='{"*":["publish"]}')
    async with LocalAbly(keys=[key]) as server, opened(server) as log:
        with pytest.raises(ChannelRefused) as caught:
            await read(log)
    assert caught.value.ably_code == 40160


async def test_reading_opens_no_realtime_connection(server, log):
    await read(log)
    await log.ready()
    assert not server.hub.connections


async def test_messages_without_serials_are_read(server, log):
    server.faults.set("omit_serials")
    async with aclosing(log.history(C)) as pages:
        await log.publish(C, [Outgoing("token", "x", "i-1")])
        ((message,),) = [page async for page in pages]
    assert (message.serial, message.version_serial, message.id) == (None, None, "i-1")
