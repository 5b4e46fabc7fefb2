"""The WebSocket: invalid frames, slow readers, cuts and freezes, which affect no other client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets

import msgpack
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from channel_server.clients import Clients, arrives, into
from localably import LocalAbly, LocalAblySettings
from waiting import PATIENCE_S

ATTACH = json.dumps({"action": 10, "channel": "room"})


def raw(server, **options):
    return connect(f"ws://127.0.0.1:{server.port}/?key={server.key}", max_size=None, **options)


async def spoken(connection, *frames):
    """Send frames, and return the answers until the server closes."""
    for frame in frames:
        await connection.send(frame)
    answers = []
    async with asyncio.timeout(PATIENCE_S):
        # an unclean close is a close too
        with contextlib.suppress(ConnectionClosed):
            async for data in connection:
                read = json.loads if isinstance(data, str) else msgpack.unpackb
                answers.append(read(data))
    return answers


@pytest.mark.parametrize(
    "frame", ["", "{", "5", "[]", '{"action":"x"}', b"\xc1", b"\x91" * 2000], ids=range(7)
)
async def test_a_broken_frame_is_answered_with_an_error_and_a_close(server, frame):
    async with raw(server) as connection:
        answers = await spoken(connection, frame)
    assert [a["action"] for a in answers] == [4, 9]
    assert answers[1]["error"]["code"] == 40000


async def test_a_frame_over_the_limit_closes_that_connection(server):
    async with raw(server) as other, raw(server) as connection:
        answers = await spoken(connection, "x" * 600_000)
        assert [a["action"] for a in answers] == [4]
        assert connection.close_code == 1009
        await other.recv()
        await other.send(ATTACH)
        assert json.loads(await other.recv())["action"] == 11


async def test_an_empty_path_and_both_spellings_of_the_token_are_accepted(server):
    async with connect(f"ws://127.0.0.1:{server.port}?key={server.key}") as connection:
        assert json.loads(await connection.recv())["action"] == 4
    token = server.hub.authenticator.issue_token(
        server.key.split(":")[0], {}, server.hub.authenticator.by_key(server.key)
    )["token"]
    for name in ("accessToken", "access_token"):
        url = f"ws://127.0.0.1:{server.port}/?{name}={token}&format=msgpack"
        async with connect(url) as connection:
            assert msgpack.unpackb(await connection.recv())["action"] == 4


async def test_a_slow_reader_is_cut_and_the_others_get_everything():
    settings = LocalAblySettings(slow_reader_bytes=200_000)
    async with LocalAbly(settings=settings) as server, raw(server) as slow:
        clients = Clients(server)
        try:
            await slow.send(ATTACH)
            slow.transport.pause_reading()
            fast, writer = await clients.realtime(), await clients.realtime()
            got = []
            await fast.channels.get("room").subscribe(into(got))
            # the system buffers hold a few megabytes before the server's begin to fill
            for number in range(300):
                await writer.channels.get("room").publish("n", f"{number}:" + "x" * 50_000)
            await arrives(got, 300)
            assert [m.data.split(":")[0] for m in got] == [str(n) for n in range(300)]
            lost = [c for c in server.hub.connections.values() if c.lost_ms is not None]
            assert len(lost) == 1, "the slow one, which may come back and resume"
        finally:
            await clients.close()


async def test_a_frozen_server_sends_nothing_and_loses_nothing(clients):
    client = await clients.realtime()
    got = []
    await client.channels.get("room").subscribe(into(got))
    with clients.server.faults.on("freeze"):
        rest = await clients.rest()
        await rest.channels.get("room").publish("n", "x")
        await asyncio.sleep(0.1)
        assert got == []
    await arrives(got, 1)


async def test_a_socket_that_was_taken_over_is_closed(server):
    async with raw(server) as first:
        connected = json.loads(await first.recv())
        key = connected["connectionDetails"]["connectionKey"]
        url = f"ws://127.0.0.1:{server.port}/?key={server.key}&resume={key}"
        async with connect(url) as second:
            assert json.loads(await second.recv())["connectionId"] == connected["connectionId"]
            assert await spoken(first) == []


async def test_half_a_handshake_and_then_silence_affect_no_other_client(server, http):
    with sockets.create_connection(("127.0.0.1", server.port), timeout=5) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
        async with http.get("/time") as answer:
            assert answer.status == 200
        half.sendall(b"\r\n")
        received = await asyncio.to_thread(half.recv, 100)
        assert received.startswith(b"HTTP/1.1 400")
