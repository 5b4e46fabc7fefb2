"""The SDK's attempts to connect, where nobody listens and where nobody answers."""

from __future__ import annotations

import asyncio
import socket

from ably import AblyRealtime

from ably_channel import ends, until
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
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        client = client_of(taken.getsockname()[1], realtime_request_timeout=60_000)
        dialling = Connecting(client)
        client.connect()
        await until(lambda: client.connection.state == "disconnected")
        assert "ConnectionRefusedError" in str(client.connection.error_reason)
    dialling.close()
    await client.close()
    await ends(before)


async def test_an_attempt_that_was_given_up_does_not_wait_for_ever():
    before = asyncio.all_tasks()
    accepted = []
    silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    client = client_of(port, realtime_request_timeout=50, disconnected_retry_timeout=20)
    dialling = Connecting(client)
    attempts = []
    client.connection.connection_manager.on("transport.pending", _into(attempts))
    client.connect()
    await until(lambda: len(attempts) >= 4)
    waiting = [t for t in asyncio.all_tasks() - before if "connect_base" in repr(t.get_coro())]
    assert len(waiting) <= 2
    dialling.close()
    await client.close()
    silent.close()
    for writer in accepted:
        writer.close()
    await ends(before)


async def test_looking_for_another_host_asks_no_web_page_first():
    client = client_of(1)
    Connecting(client)
    assert client.connection.connection_manager.check_connection() is True
    await client.close()


def _into(items):
    def listener(item):
        items.append(item)

    return listener


async def test_a_retry_that_another_has_replaced_does_not_happen():
    """As when a connection that waits to be tried again is suspended."""
    before = asyncio.all_tasks()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = client_of(taken.getsockname()[1])
        dialling = Connecting(client)
        manager = client.connection.connection_manager
        manager.start_retry_timer(20)
        manager.start_retry_timer(60_000)
        await asyncio.sleep(0.2)
        assert client.connection.state == "initialized"
    manager.cancel_retry_timer()
    dialling.close()
    await client.close()
    await ends(before)
