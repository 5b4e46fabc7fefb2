from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from ably_channel import opened, until
from contracts.channel_log import published, receive, tokens
from localably import LocalAbly, LocalAblySettings
from rehydrate.ports import Discontinuity


def connections(log):
    return len(log._pool)


async def test_channels_share_a_connection_up_to_its_limit(server):
    async with opened(server, channels_per_connection=3) as log, AsyncExitStack() as stack:
        for n in range(7):
            await stack.enter_async_context(log.subscribe(f"ai:{n}"))
        assert connections(log) == 3
        assert len(server.hub.connections) == 3


async def test_a_second_subscription_to_a_channel_takes_another_connection(server, log):
    async with log.subscribe("c"):
        async with log.subscribe("c"):
            assert connections(log) == 2
        assert connections(log) == 1


async def test_the_first_connection_stays_open_for_the_next_attach(server, log):
    for _ in range(3):
        async with log.subscribe("c"):
            pass
        assert connections(log) == 1
    assert len(server.hub.connections) == 1


async def test_a_connection_with_an_unclean_detach_is_not_reused(server, log):
    async with log.subscribe("c"):
        pooled = log._pool.acquire("other")
        await log._pool.release(pooled, "other", clean=False)
        assert connections(log) == 1
        async with log.subscribe("d"):
            assert connections(log) == 2
    async with log.subscribe("c"):
        assert connections(log) == 1


async def test_closing_closes_connections_in_use(server, log):
    async with log.subscribe("c"), log.subscribe("d"):
        await log.close()
        assert connections(log) == 0


async def test_a_busy_connection_accepts_no_further_channels(server):
    async with opened(server, messages_per_connection=20) as log, log.subscribe("busy") as busy:
        await published(log, "busy", tokens(30))
        await receive(busy, 30)
        async with log.subscribe("other"):
            assert connections(log) == 2


async def test_a_channel_moves_when_its_shared_connection_drops_deliveries(server):
    async with (
        opened(server) as log,
        log.subscribe("a", rewind="10s") as a,
        log.subscribe("b", rewind="10s") as b,
    ):
        assert a._connection is b._connection
        with server.faults.on("drop_deliveries", channel="b", nth=1, code=80020):
            await log.publish("b", tokens(1, run="dropped"))
            await until(lambda: b._connection is not a._connection)
        await until(lambda: b._collecting)
        await log.publish("b", tokens(1, run="last"))
        got = []
        while not got or getattr(got[-1], "id", None) != "last-0":
            got += await receive(b, 1)
        assert any(isinstance(each, Discontinuity) for each in got)
        assert connections(log) == 2


async def test_a_channel_alone_on_its_connection_stays_there_when_deliveries_drop(server, log):
    async with log.subscribe("a", rewind="10s") as a:
        connection = a._connection
        with server.faults.on("drop_deliveries", channel="a", nth=1, code=80020):
            await log.publish("a", tokens(1))
            assert isinstance((await receive(a, 1))[0], Discontinuity)
        await until(lambda: a._collecting)
        assert a._connection is connection
        assert connections(log) == 1


async def test_more_than_two_hundred_channels_are_spread_and_all_deliver():
    limits = LocalAblySettings(channels_per_connection=200, max_idle_interval_s=2.0)
    names = [f"ai:{n}" for n in range(205)]
    async with LocalAbly(settings=limits) as server, opened(server) as log:
        async with AsyncExitStack() as stack:
            attaching = [stack.enter_async_context(log.subscribe(name)) for name in names]
            subscriptions = await asyncio.gather(*attaching)
            assert connections(log) == 2
            for name, subscription in zip(names[-10:], subscriptions[-10:], strict=True):
                await published(log, name, tokens(1))
                await receive(subscription, 1)
        assert connections(log) == 1
