"""Limits of `rehydrate serve` that apply before a request is known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from api.serving import served_beside
from postgres.embedded_owners import wait_until
from rehydrate import descriptors
from rehydrate.cli import connections
from rehydrate.cli.connections import HEAD_BYTES, BoundedProtocol

OK = b"HTTP/1.1 200 OK"


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def ticks(_):
    async def body():
        while True:
            yield b"."
            await asyncio.sleep(0.05)

    return StreamingResponse(body())


@pytest.fixture
async def url():
    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"]), Route("/ticks", ticks)])
    async with served_beside(app, http=BoundedProtocol, timeout_graceful_shutdown=1) as url:
        yield httpx.URL(url)


@contextlib.asynccontextmanager
async def connected(url):
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def rest(reader):
    """What arrives until the server closes the connection."""
    received = b""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(65536):
                received += block
    return received


def refused(received, status, code):
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), received[:200]
    assert b"Connection: close" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)


def fields(size):
    """Header fields of *size* bytes in total."""
    line = b"x-%05d: " + b"v" * 990 + b"\r\n"
    lines = [line % n for n in range(size // 1001)]
    return b"".join(lines)


async def test_a_head_within_the_limit_is_served(url):
    async with connected(url) as (reader, writer):
        for _ in range(3):  # on one connection, so that the counters start again
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields(60_000) + b"\r\n")
            assert (await reader.readline()).startswith(OK)
            await reader.readuntil(b"\r\n\r\n0")


@pytest.mark.parametrize("by", ["fields", "one field", "url", "many pieces"])
async def test_a_head_beyond_the_limit_is_431(url, by):
    heads = {
        "fields": b"GET / HTTP/1.1\r\nHost: h\r\n" + fields(80_000) + b"\r\n",
        "one field": b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"v" * HEAD_BYTES + b"\r\n\r\n",
        "url": b"GET /" + b"u" * HEAD_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        "many pieces": b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"v" * 2 * HEAD_BYTES,
    }
    async with connected(url) as (reader, writer):
        size = 1000 if by == "many pieces" else 1 << 20
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(heads[by]), size):
                writer.write(heads[by][at : at + size])
                await writer.drain()
        refused(await rest(reader), 431, "too_large")


async def test_trailers_count_as_a_head(url):
    async with connected(url) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):  # more than one read of the server, which may begin with the head
                writer.write(b"v" * 1000)
                await writer.drain()
        assert OK not in await rest(reader)


async def test_a_body_does_not_count_as_a_head(url):
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/", content=b"b" * 1_000_000)).text == "1000000"

        async def pieces():
            for _ in range(5000):
                yield b"b" * 30

        assert (await http.post("/", content=pieces())).text == "150000"


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: h\r\n"])
async def test_a_head_that_is_not_complete_in_time_is_408(url, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)
    async with connected(url) as (reader, writer):
        writer.write(sent)
        refused(await rest(reader), 408, "too_slow")


async def test_a_slow_second_head_is_408_and_an_idle_connection_is_kept(url, monkeypatch):
    async with connected(url) as (reader, writer):
        monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await reader.readline()).startswith(OK)
        await reader.readuntil(b"\r\n\r\n0")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await reader.read(1)
        writer.write(b"GET / HTTP/1.1\r\n")
        refused(await rest(reader), 408, "too_slow")


async def test_an_open_answer_is_not_limited_in_time_and_gets_no_second_answer(url, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)
    async with connected(url) as (reader, writer):
        writer.write(b"GET /ticks HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(20):
            await reader.readuntil(b".\r\n")
        writer.write(b"GET")
        received = await rest(reader)
    assert b"408" not in received, "not within the body of another answer"


async def test_connections_beyond_the_limit_are_429_until_one_ends(url, monkeypatch):
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    async with connected(url) as (first, writer), connected(url):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await first.readline()).startswith(OK)
        async with connected(url) as (third, _):
            refused(await rest(third), 429, "too_many")
    await asyncio.to_thread(wait_until, lambda: is_served(url))


def is_served(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:  # the server does not know yet that the others have ended
        return False


async def test_the_default_limit_is_that_of_descriptors(url):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections.most_connections() == max(64, soft - descriptors.RESERVE)
