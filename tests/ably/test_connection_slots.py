from __future__ import annotations

import asyncio

import pytest

from ably_channel import until
from rehydrate.errors import ChannelUnavailable
from rehydrate.ports import Outgoing


def connections(server):
    return sum(one.lost_ms is None for one in server.hub.connections.values())


async def test_each_lane_is_a_connection_and_one_that_is_unused_ends(server, log):
    log._lanes._look_every_s = 0.3
    answers = [
        log.publish(f"ai:{n}", [Outgoing("token", str(n), f"id-{n}")], lane=n) for n in range(4)
    ]
    assert all([await answer for answer in answers])
    assert len(log._lanes) == connections(server) == 4
    await until(lambda: len(log._lanes) == 1 and connections(server) == 1)
    assert await log.publish("ai:3", [Outgoing("token", "again", "id-again")], lane=3)


async def test_a_lane_in_use_does_not_end(server, log):
    log._lanes._look_every_s = 0.2
    for n in range(10):
        await log.publish("ai:busy", [Outgoing("token", str(n), f"id-{n}")], lane=1)
        await asyncio.sleep(0.1)
    assert len(log._lanes) == 1  # lane 0 was never needed


async def test_a_closed_channel_takes_nothing_on_any_lane(log):
    await log.close()
    for lane in (0, 7):
        with pytest.raises(ChannelUnavailable):
            await log.publish("ai:c", [Outgoing("token", "x", "id")], lane=lane)
