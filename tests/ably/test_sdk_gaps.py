"""The gaps of ably-python 3.1, each reproduced here or in the named test.

gap  behaviour of the SDK                                  reproduced in
1    the WebSocket ignores the port option                 test_endpoint
2    keys are refused over plain http                      test_rest
3    the attach point is private                           test_subscription, here
4    request() does not renew a token                      test_rest
5    requests of a realtime client wait for its socket     here
6    the error of an attach is dropped (limited rewind)    test_subscription, follow/
7    a re-attach does not rewind                           test_subscription
8    the position is lost when suspended                   here, follow/
9    a dead connection is reported as connected            test_connection, test_subscription
10   a refused TCP connection is noticed late              test_connecting
11   a retried publish is sent twice                       test_publisher
12   a message named "error" loses the rest of its frame   here
13   attach returns or raises None; release does nothing   here, test_subscription
14   frames of more than 1 MiB end the connection          here
15   arguments of history are compared as strings          here, test_rest
16   one attempt, no time limit, unwrapped HTTP errors     test_rest
17   sizes are checked against 65536 bytes                 here
18   the synchronous client has no realtime part           not used
19   silence is measured by the wall clock                 here
"""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest
from ably import AblyRealtime
from ably.transport.defaults import Defaults
from aiohttp import web

from ably_channel import Stub, opened, until
from localably import LocalAbly, LocalAblySettings
from rehydrate.ably.connection import discard
from rehydrate.errors import ChannelUnavailable
from rehydrate.ports import BacklogEnd, Discontinuity, Outgoing
from waiting import PATIENCE_S

C = "ai:conv"


def message_of(n, data=None, name="token"):
    return Outgoing(name, str(n) if data is None else data, f"i-{n}")


async def up_to(subscription, last):
    """Receive up to the message whose data is *last*."""
    got = []
    async with asyncio.timeout(PATIENCE_S):
        while not got or isinstance(got[-1], Discontinuity | BacklogEnd) or got[-1].data != last:
            got.append(await anext(subscription))
    return got


def texts(got):
    return [each.data for each in got if not isinstance(each, Discontinuity | BacklogEnd)]


async def test_gap_3_without_the_private_attach_point_everything_else_works(log, monkeypatch):
    monkeypatch.setattr(
        "ably.realtime.channel.RealtimeChannel._RealtimeChannel__attach_serial",
        property(lambda _: None, lambda *_: None),
        raising=False,
    )
    async with log.subscribe(C) as subscription:
        assert subscription.attach_serial is None
        await log.publish(C, [message_of(0)])
        assert texts(await up_to(subscription, "0")) == ["0"]


async def test_gap_5_history_is_read_while_the_realtime_connection_hangs(server, log):
    async with log.subscribe(C) as subscription:
        await log.publish(C, [message_of(0)])
        await up_to(subscription, "0")
        with server.faults.on("freeze"):
            hanging = log.publish(C, [message_of(1)])
            async with asyncio.timeout(PATIENCE_S):
                pages = [page async for page in log.history(C)]
            assert not hanging.done()
        await hanging
    assert [m.data for page in pages for m in page] == ["0"]


async def test_gap_8_after_a_suspension_messages_are_delivered_again_from_before_it(
    server, monkeypatch
):
    monkeypatch.setattr(Defaults, "connection_state_ttl", 500)  # the SDK ignores the server's value
    async with (
        opened(server, ack_timeout_s=30) as log,
        log.subscribe(C, rewind="1m") as subscription,
    ):
        await log.publish(C, [message_of(0)])
        await up_to(subscription, "0")
        client = subscription._client
        states = []
        client.connection.on(lambda change: states.append(change.current.value))
        await server.stop()
        await until(lambda: "suspended" in states)
        await server.start()
        await log.publish(C, [message_of(1)])
        got = await up_to(subscription, "1")
    assert any(isinstance(each, Discontinuity) for each in got)
    assert texts(got)[-1] == "1"


async def test_gap_12_a_message_named_error_and_the_rest_of_its_frame_arrive(log):
    async with log.subscribe(C) as subscription:
        batch = [message_of(0), Outgoing("error", "e", "i-e"), message_of(2)]
        batch = [each._replace(id=f"b:{n}") for n, each in enumerate(batch)]
        await log.publish(C, batch)
        got = await up_to(subscription, "2")
    assert texts(got) == ["0", "e", "2"]


@pytest.mark.parametrize(
    "bad",
    [
        {"data": "%%%", "encoding": "base64"},
        {"data": "{", "encoding": "json"},
        {"data": "x", "encoding": "utf-8/no-such-encoding"},
        {"data": "x", "encoding": "cipher+aes-256-cbc"},
    ],
    ids=lambda bad: bad["encoding"],
)
async def test_gap_12_an_undecodable_message_loses_no_others(log, bad):
    rest = log._requests._rest
    async with log.subscribe(C) as subscription:
        batch = [{"name": "token", "data": "0"}, {"name": "token", **bad}]
        batch.append({"name": "token", "data": "2"})
        answer = await rest.request("POST", f"/channels/{C}/messages", "5", body=batch)
        assert answer.success
        got = await up_to(subscription, "2")
    assert len(texts(got)) in (2, 3)
    assert texts(got)[0] == "0"


@pytest.mark.parametrize(
    "answer",
    [{"action": 13, "error": {"code": 50000, "statusCode": 500, "message": "no"}}, {"action": 13}],
    ids=["with a reason", "without"],
)
async def test_gap_13_an_attach_answered_with_detached_fails(answer):
    """The SDK reports SUSPENDED, and raises a reason that is None."""
    async with _answering(answer) as port:
        stub = Stub()
        stub.port = port
        async with opened(stub, request_timeout_s=2.0) as log:
            with pytest.raises(ChannelUnavailable):
                async with log.subscribe(C):
                    raise AssertionError("attached")


async def test_gap_14_more_than_a_mebibyte_at_once_arrives(log):
    text = "語" * 20_000
    for n in range(30):
        await log.publish(C, [message_of(n, text)])
    await log.publish(C, [message_of(30, "last")])
    async with log.subscribe(C, rewind="1m") as subscription:
        got = await up_to(subscription, "last")
    assert texts(got) == [text] * 30 + ["last"]


@pytest.mark.parametrize("since_ms", [0, 999, 1000, 10**12])
async def test_gap_15_any_start_time_of_history_is_a_number(log, since_ms):
    await log.publish(C, [message_of(0)])
    pages = [page async for page in log.history(C, since_ms=since_ms)]
    assert [m.data for page in pages for m in page] == ["0"]


async def test_gap_17_the_accounts_size_limit_applies():
    big = "x" * 100_000
    async with (
        LocalAbly(settings=LocalAblySettings(max_message_bytes=262_144)) as server,
        opened(server) as log,
        log.subscribe(C) as subscription,
    ):
        await log.publish(C, [message_of(0, big)])
        assert texts(await up_to(subscription, big)) == [big]


async def test_gap_19_a_dead_connection_is_detected_after_the_clock_was_set_back(monkeypatch):
    """By our pings; a stock client would wait for as long as its clock was set back."""
    behind_ms = 0
    clock = "ably.transport.websockettransport.unix_time_ms"
    monkeypatch.setattr(clock, lambda: time.time_ns() // 1_000_000 - behind_ms)
    async with (
        LocalAbly(settings=LocalAblySettings(max_idle_interval_s=1.0)) as server,
        opened(server, request_timeout_s=2.0) as log,
        log.subscribe(C, rewind="1m") as subscription,
    ):
        ours = subscription._client
        where = {"endpoint": f"127.0.0.1:{server.port}", "tls": False}
        stock = AblyRealtime(server.key, **where, realtime_request_timeout=500)
        try:
            await until(lambda: stock.connection.state == "connected")
            transport = stock.connection.connection_manager.transport
            with server.faults.on("freeze"):
                await asyncio.sleep(0.2)  # earlier frames have been received
                behind_ms = 600_000
                await until(lambda: _waits_ms(transport) > 500_000)
                await until(lambda: ours.connection.state == "closed")
            assert stock.connection.state == "connected"
        finally:
            await discard(stock, 1.0, abort=True)
        await log.publish(C, [message_of(0)])
        assert texts(await up_to(subscription, "0")) == ["0"]


def _waits_ms(transport):
    """Return how long *transport* will wait without activity."""
    return transport.idle_timer._timeout if transport.idle_timer else 0


class _answering:  # noqa: N801 - used like a function
    """A server that accepts connections and answers every ATTACH with *answer*."""

    def __init__(self, answer):
        self._answer = answer

    async def __aenter__(self):
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self._runner.addresses[0][1]

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _serve(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        details = {"connectionKey": "k", "connectionStateTtl": 1000, "maxIdleInterval": 0}
        await self._say(socket, {"action": 4, "connectionId": "c", "connectionDetails": details})
        async for frame in socket:
            if frame.type != aiohttp.WSMsgType.TEXT:
                continue
            message = json.loads(frame.data)
            if message["action"] == 10:
                await self._say(socket, {"channel": message["channel"], **self._answer})
            elif message["action"] == 0:
                await self._say(socket, message)
        return socket

    async def _say(self, socket, message):
        await socket.send_str(json.dumps(message))
