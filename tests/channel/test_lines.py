from __future__ import annotations

from contextlib import AsyncExitStack

from channel.conftest import opened


def lines(log):
    return len(log._lines)


async def test_channels_share_a_connection_up_to_its_limit(server):
    async with opened(server, channels_per_connection=3) as log, AsyncExitStack() as stack:
        for n in range(7):
            await stack.enter_async_context(log.subscribe(f"ai:{n}"))
        assert lines(log) == 3
        assert len(server.hub.connections) == 3


async def test_a_second_subscription_to_a_channel_takes_another_connection(server, log):
    async with log.subscribe("c"):
        async with log.subscribe("c"):
            assert lines(log) == 2
        assert lines(log) == 1


async def test_the_first_connection_stays_for_the_next_attach(server, log):
    for _ in range(3):
        async with log.subscribe("c"):
            pass
        assert lines(log) == 1
    assert len(server.hub.connections) == 1


async def test_a_connection_that_was_not_left_cleanly_is_not_used_again(server, log):
    async with log.subscribe("c"):
        berth = log._lines.take("other")
        await log._lines.give_back(berth, "other", clean=False)
        assert lines(log) == 1
        async with log.subscribe("d"):
            assert lines(log) == 2
    async with log.subscribe("c"):
        assert lines(log) == 1


async def test_closing_closes_what_is_still_in_use(server, log):
    async with log.subscribe("c"), log.subscribe("d"):
        await log.close()
        assert lines(log) == 0
