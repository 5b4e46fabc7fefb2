"""The SDK's connection attempts against closed ports and silent servers."""

from __future__ import annotations

import asyncio
import socket

from ably import AblyRealtime
from ably.util.exceptions import AblyException

from ably_channel import end_stock_clients, ends, until
from rehydrate.ably.connecting import Connecting


def client_of(port, **options):
    return AblyRealtime(
        key="a.b:" + "c" * 32,
        auto_connect=False,
        endpoint=f"127.0.0.1:{port}",
        tls=False,
        **options,
    )


async def test_a_refused_connection_is_noticed_long_before_the_time_limit():
    before = asyncio.all_tasks()
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        client = client_of(taken.getsockname()[1], realtime_request_timeout=60_000)
        connecting = Connecting(client)
        client.connect()
        await until(lambda: client.connection.state == "disconnected")
        assert "ConnectionRefusedError" in str(client.connection.error_reason)
    connecting.close()
    await client.close()
    await ends(before)


async def test_an_abandoned_attempt_does_not_wait_for_ever():
    before = asyncio.all_tasks()
    accepted = []
    silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    client = client_of(port, realtime_request_timeout=50, disconnected_retry_timeout=20)
    connecting = Connecting(client)
    attempts = []
    client.connection.connection_manager.on("transport.pending", _into(attempts))
    client.connect()
    await until(lambda: len(attempts) >= 4)
    waiting = [t for t in asyncio.all_tasks() - before if "connect_base" in repr(t.get_coro())]
    assert len(waiting) <= 2
    connecting.close()
    await client.close()
    silent.close()
    for writer in accepted:
        writer.close()
    await ends(before)


async def test_fallback_hosts_are_tried_without_fetching_a_web_page_first():
    client = client_of(1)
    Connecting(client)
    assert client.connection.connection_manager.check_connection() is True
    await client.close()


def _into(items):
    def listener(item):
        items.append(item)

    return listener


async def test_a_retry_that_was_superseded_does_not_happen():
    """As when a connection that waits for its retry is suspended."""
    before = asyncio.all_tasks()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = client_of(taken.getsockname()[1])
        connecting = Connecting(client)
        manager = client.connection.connection_manager
        manager.start_retry_timer(20)
        manager.start_retry_timer(60_000)
        await asyncio.sleep(0.2)
        assert client.connection.state == "initialized"
    manager.cancel_retry_timer()
    connecting.close()
    await client.close()
    await ends(before)


async def test_a_closed_client_does_not_connect_again():
    """As when a message of the closed socket, handled late, makes the SDK retry."""
    before = asyncio.all_tasks()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = client_of(taken.getsockname()[1], disconnected_retry_timeout=20)
        connecting = Connecting(client)
        attempts = []
        manager = client.connection.connection_manager
        manager.on("transport.pending", _into(attempts))
        client.connect()
        await until(lambda: attempts)
        connecting.close()
        await client.close()
        attempts.clear()
        await manager.on_disconnected(AblyException("late", 400, 80003))
        await until(lambda: client.connection.state == "connecting")
        await ends(before)
        assert not attempts


async def test_an_attempt_that_waits_for_its_token_ends_with_the_client():
    before = asyncio.all_tasks()
    asked = []

    async def no_token(_):
        asked.append(asyncio.current_task())
        await asyncio.Event().wait()

    client = AblyRealtime(
        auth_callback=no_token,
        auto_connect=False,
        realtime_request_timeout=50,
        disconnected_retry_timeout=20,
    )
    connecting = Connecting(client)
    client.connect()
    await until(lambda: len(asked) >= 3)
    assert sum(not attempt.done() for attempt in asked) <= 2
    connecting.close()
    await client.close()
    await ends(before)


async def test_a_client_that_an_earlier_test_left_does_not_connect_during_the_next():
    before = asyncio.all_tasks()
    attempts = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = client_of(taken.getsockname()[1], disconnected_retry_timeout=20)
        Connecting(client)
        client.connection.connection_manager.on("transport.pending", _into(attempts))
        client.connect()
        await until(lambda: len(attempts) >= 2)
        await end_stock_clients()
        await ends(before)
