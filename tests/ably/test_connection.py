"""A monitored connection: replaced where the SDK cannot recover."""

from __future__ import annotations

import asyncio

import pytest
from ably import AblyRealtime
from ably.types.connectionstate import ConnectionState

from ably_channel import ends, until
from rehydrate.ably.connection import Connection, discard
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from waiting import PATIENCE_S


class RecordingListener:
    """Records the calls it receives."""

    def __init__(self):
        self.seen = []

    def up(self, client):
        self.seen.append(client)

    def down(self):
        self.seen.append("down")

    def refused(self, refusal):
        self.seen.append(refusal.ably_code)


@pytest.fixture
async def connection(server):
    before = asyncio.all_tasks()

    def build():
        return AblyRealtime(
            key=connection.key,
            auto_connect=False,
            queue_messages=False,
            endpoint=f"127.0.0.1:{server.port}",
            tls=False,
            realtime_request_timeout=5000,
            disconnected_retry_timeout=100,
        )

    connection = Connection(build, lambda: None, timeout_s=PATIENCE_S, ping_every_s=0.1)
    connection.key = server.key
    connection.listener = RecordingListener()
    connection.listeners.append(connection.listener)
    yield connection
    await connection.close()
    await ends(before)


async def test_nothing_connects_before_first_use(server, connection):
    await asyncio.sleep(0.05)
    assert not server.hub.connections
    client = await connection.client()
    assert connection.listener.seen == [client]


async def test_concurrent_callers_share_one_connection(server, connection):
    clients = await asyncio.gather(*(connection.client() for _ in range(20)))
    assert len(set(clients)) == 1
    assert len(server.hub.connections) == 1


async def test_the_sdk_recovers_a_cut_on_the_same_client(server, connection):
    client = await connection.client()
    server.cut()
    await until(lambda: connection.listener.seen == [client, "down", client])


async def test_a_dead_connection_is_replaced(server, connection):
    client = await connection.client()
    with server.faults.on("freeze"):
        await until(lambda: "down" in connection.listener.seen)
    assert await connection.client() is not client


async def test_a_disconnect_that_the_sdk_does_not_notice_is_detected(server, connection):
    client = await connection.client()
    # gap 9: disconnected without a reason, it closes its socket and still reports connected
    await client.connection.connection_manager.on_disconnected(None)
    assert client.connection.state == "connected"
    await until(lambda: "down" in connection.listener.seen)
    assert await connection.client() is not client


async def test_a_forced_reconnect_replaces_the_client_at_once(server, connection):
    client = await connection.client()
    connection.force_reconnect()
    await until(lambda: "down" in connection.listener.seen)
    assert await connection.client() is not client


async def test_a_refused_key_is_reported_to_listeners_and_retried(server, connection):
    connection.key = connection.key.partition(":")[0] + ":wrong"
    with pytest.raises(ChannelRefused) as caught:
        await connection.client()
    assert caught.value.ably_code == 40101
    assert connection.listener.seen == [40101]
    connection.key = server.key
    await until(lambda: len(connection.listener.seen) > 1 and connection.listener.seen[-1] != 40101)


async def test_an_unreachable_server_is_unavailable_and_used_once_it_is_back(server, connection):
    await server.stop()
    connection._timeout_s = 0.5
    with pytest.raises(ChannelUnavailable, match=r"0\.5 s"):
        await connection.client()
    await server.start()
    await until(lambda: connection.listener.seen)


async def test_a_closed_connection_stays_closed(server, connection):
    await connection.client()
    await connection.close()
    await connection.close()
    connection.start()
    with pytest.raises(ChannelUnavailable, match="closed"):
        await connection.client()


async def test_a_connection_that_was_never_started_can_be_closed(connection):
    await connection.close()


async def test_a_client_whose_connection_does_not_close_in_time_closes_its_http_client(server):
    client = AblyRealtime(
        key=server.key, endpoint=f"127.0.0.1:{server.port}", tls=False, auto_connect=False
    )
    client.connect()
    await client.connection.once_async(ConnectionState.CONNECTED)
    asked, manager = [], client.connection.connection_manager
    request_state, manager.request_state = manager.request_state, asked.append
    await discard(client, 0.1, abort=False)
    assert asked == [ConnectionState.CLOSING]  # which never leads to CLOSED
    assert client.http._Http__client.is_closed
    request_state(ConnectionState.CLOSING)
    await client.connection._when_state(ConnectionState.CLOSED)
