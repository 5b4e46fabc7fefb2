"""A connection that is watched: what the SDK cannot mend is replaced."""

from __future__ import annotations

import asyncio

import pytest
from ably import AblyRealtime

from ably_channel import ends, until
from rehydrate.ably.connection import Connection
from rehydrate.errors import ChannelRefused, ChannelUnavailable


class Rides:
    """A rider that writes down what happens."""

    def __init__(self):
        self.seen = []

    def up(self, client):
        self.seen.append(client)

    def down(self):
        self.seen.append("down")

    def refused(self, refusal):
        self.seen.append(refusal.ably_code)


@pytest.fixture
async def line(server):
    before = asyncio.all_tasks()

    def build():
        return AblyRealtime(
            key=line.key,
            auto_connect=False,
            queue_messages=False,
            endpoint=f"127.0.0.1:{server.port}",
            tls=False,
            realtime_request_timeout=500,
            disconnected_retry_timeout=100,
        )

    line = Connection(build, lambda: None, timeout_s=0.5, ping_every_s=0.1)
    line.key = server.key
    line.rider = Rides()
    line.riders.append(line.rider)
    yield line
    await line.close()
    await ends(before)


async def test_nothing_connects_before_it_is_asked_for(server, line):
    await asyncio.sleep(0.05)
    assert not server.hub.connections
    client = await line.client()
    assert line.rider.seen == [client]


async def test_many_who_ask_get_one_connection(server, line):
    clients = await asyncio.gather(*(line.client() for _ in range(20)))
    assert len(set(clients)) == 1
    assert len(server.hub.connections) == 1


async def test_a_cut_is_mended_by_the_sdk_on_the_same_client(server, line):
    client = await line.client()
    server.cut()
    await until(lambda: line.rider.seen == [client, "down", client])


async def test_a_dead_connection_is_replaced(server, line):
    client = await line.client()
    with server.faults.on("freeze"):
        await until(lambda: "down" in line.rider.seen)
    assert await line.client() is not client


async def test_a_disconnect_that_the_sdk_does_not_notice_is_found(server, line):
    client = await line.client()
    # gap 9: told to disconnect without a reason, it closes its socket and says it is connected
    await client.connection.connection_manager.on_disconnected(None)
    assert client.connection.state == "connected"
    await until(lambda: "down" in line.rider.seen)
    assert await line.client() is not client


async def test_a_condemned_client_is_replaced_at_once(server, line):
    client = await line.client()
    line.condemn()
    await until(lambda: "down" in line.rider.seen)
    assert await line.client() is not client


async def test_a_key_that_is_refused_is_told_to_all_and_tried_again(server, line):
    line.key = line.key.partition(":")[0] + ":wrong"
    with pytest.raises(ChannelRefused) as caught:
        await line.client()
    assert caught.value.ably_code == 40101
    assert line.rider.seen == [40101]
    line.key = server.key
    await until(lambda: len(line.rider.seen) > 1 and line.rider.seen[-1] != 40101)


async def test_a_server_that_is_away_is_unavailable_and_found_when_it_is_back(server, line):
    await server.stop()
    with pytest.raises(ChannelUnavailable, match=r"0\.5 s"):
        await line.client()
    await server.start()
    await until(lambda: line.rider.seen)


async def test_a_closed_line_stays_closed(server, line):
    await line.client()
    await line.close()
    await line.close()
    line.start()
    with pytest.raises(ChannelUnavailable, match="closed"):
        await line.client()


async def test_a_line_that_never_began_can_be_closed(line):
    await line.close()
