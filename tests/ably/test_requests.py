"""Failing requests: retried if the failure is transient, always within the time limit."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from ably_channel import opened
from rehydrate.ably.credentials import Credentials
from rehydrate.errors import ChannelRefused, ChannelUnavailable, Unauthorized
from rehydrate.ports import Outgoing

HTML = (502, "text/html", b"<html>bad gateway</html>")
EMPTY = (200, "application/json", b"[]")


def error(status, code, **headers):
    body = json.dumps({"error": {"code": code, "statusCode": status, "message": "as scripted"}})
    return (status, "application/json", body.encode(), headers)


async def read(log, **how):
    return [m for page in [page async for page in log.history("c", **how)] for m in page]


@pytest.mark.parametrize(
    "failing",
    [
        HTML,
        error(500, 50000),
        error(503, 50003),
        error(429, 42910, **{"Retry-After": "0"}),
        (200, "text/plain", b"captive portal"),
        (200, "application/json", b"[{"),
        (200, "application/x-msgpack", b"\xc1"),
    ],
    ids=["html", "500", "503", "429", "text", "cut json", "bad msgpack"],
)
async def test_a_transient_failure_is_retried(stub, failing):
    stub.answers = [failing, failing, EMPTY]
    async with opened(stub) as log:
        assert await read(log) == []
    assert len(stub.requests) == 3


@pytest.mark.parametrize("failing", [HTML, error(500, 50000), (200, "application/json", b"7")])
async def test_a_lasting_failure_is_unavailable(stub, failing):
    stub.answers = [failing]
    async with opened(stub) as log:
        with pytest.raises(ChannelUnavailable) as caught:
            await read(log)
    assert not isinstance(caught.value, ChannelRefused)
    assert len(stub.requests) <= 4


async def test_a_retry_after_beyond_the_time_limit_fails_at_once(stub):
    stub.answers = [error(429, 42910, **{"Retry-After": "30"})]
    async with opened(stub) as log:
        with pytest.raises(ChannelUnavailable) as caught:
            await read(log)
    assert caught.value.retry_after_s == 30
    assert len(stub.requests) == 1


async def test_a_short_retry_after_is_honoured(stub):
    stub.answers = [error(503, 50003, **{"Retry-After": "1"}), EMPTY]
    async with opened(stub) as log:
        began = time.monotonic()
        assert await read(log) == []
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize(("status", "code"), [(400, 40000), (401, 40160), (403, 40300)])
async def test_a_refusal_is_not_retried(stub, status, code):
    stub.answers = [error(status, code)]
    async with opened(stub) as log:
        with pytest.raises(ChannelRefused) as caught:
            await read(log)
    assert caught.value.ably_code == code
    assert len(stub.requests) == 1


async def test_a_silent_server_fails_within_the_time_limit(server):
    server.faults.set("stall_requests", seconds=60)
    async with opened(server, request_timeout_s=0.6) as log:
        async with asyncio.timeout(10):
            with pytest.raises(ChannelUnavailable, match=r"within 0\.6 s"):
                await read(log)
        server.faults.clear()
        assert await read(log) == []


async def test_one_stuck_answer_leaves_time_for_a_retry(server):
    server.faults.set("stall_requests", seconds=60, nth=1)
    async with opened(server) as log:
        assert await read(log) == []


async def test_a_closed_port_is_unavailable():
    class Nobody:
        key = "a.b:" + "c" * 32

    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        Nobody.port = taken.getsockname()[1]
        async with opened(Nobody) as log:
            for asking in (read(log), log.ready()):
                with pytest.raises(ChannelUnavailable):
                    await asking


async def test_the_key_is_never_sent(stub):
    stub.answers = [EMPTY]
    async with opened(stub) as log:
        await read(log)
    (request,) = stub.requests
    assert request.headers["Authorization"].startswith("Bearer ")
    sent = f"{request.url} {dict(request.headers)}"
    assert stub.key.partition(":")[2] not in sent


async def test_a_token_that_is_refused_is_replaced_once(stub):
    stub.answers = [error(401, 40142), EMPTY]
    async with opened(stub) as log:
        assert await read(log) == []
    first, second = stub.requests
    assert first.headers["Authorization"] != second.headers["Authorization"]


async def test_a_token_refused_twice_is_a_refusal(stub):
    stub.answers = [error(401, 40142)]
    async with opened(stub) as log:
        with pytest.raises(ChannelRefused) as caught:
            await read(log)
    assert caught.value.ably_code == 40142
    assert len(stub.requests) == 2


@pytest.mark.parametrize("wrong_by_s", [-90_000, 90_000])
async def test_a_machine_with_a_wrong_clock_reads_and_publishes(server, monkeypatch, wrong_by_s):
    monkeypatch.setattr(Credentials.__init__, "__defaults__", (lambda: time.time() + wrong_by_s,))
    async with opened(server) as log:
        assert await read(log) == []
        await log.publish("c", [Outgoing("token", "x", "1")])
        assert len(await read(log)) == 1


async def test_a_machine_with_a_wrong_clock_can_publish_first(server, monkeypatch):
    monkeypatch.setattr(Credentials.__init__, "__defaults__", (lambda: time.time() - 90_000,))
    async with opened(server) as log:
        assert await log.publish("c", [Outgoing("token", "x", "1")])


async def test_a_request_after_closing_is_unavailable(server):
    async with opened(server) as log:
        await log.ready()
        await log.close()
        for asking in (log.ready(), read(log)):
            with pytest.raises(ChannelUnavailable, match="closed"):
                await asking


async def test_a_given_token_is_sent_instead_of_the_services_own(stub):
    stub.answers = [error(401, 40101)]
    async with opened(stub) as log:
        with pytest.raises(Unauthorized):
            await log.admits("a.reader.token", "c")
    (request,) = stub.requests
    assert request.headers["Authorization"] == "Bearer YS5yZWFkZXIudG9rZW4="
