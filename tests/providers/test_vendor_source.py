"""Sources of events: accepted types, pulling, the limit on silence, and closing."""

from __future__ import annotations

import asyncio
import threading

import httpx
import httpx2
import pytest

from rehydrate.providers.failures import StreamUnreadable
from rehydrate.providers.openai_responses import ResponsesStream
from rehydrate.providers.vendor_source import Exhausted, VendorSource
from waiting import PATIENCE_S


def source(origin, idle_timeout_s=20.0):
    return VendorSource(origin, wrap=lambda name, data: (name, data), idle_timeout_s=idle_timeout_s)


async def everything(origin):
    reading, found = source(origin), []
    while True:
        try:
            found.append(await reading.pull())
        except Exhausted:
            return found


async def later(*items):
    for item in items:
        await asyncio.sleep(0)
        yield item


class Chunked:
    """The interface of HTTP responses: a method that yields chunks, and a close method."""

    closed = False

    def __init__(self, *chunks):
        self.chunks = chunks

    def iter_bytes(self):
        yield from self.chunks

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    "origin",
    [
        b"data: 1\n\nevent: e\ndata: 2\n\ndata: [DONE]\n\ndata: 3\n\n",
        bytearray(b"data: 1\n\nevent: e\ndata: 2\n\n"),
        [b"data: 1\n", memoryview(b"\nevent: e\ndata: 2\n\n")],
        Chunked(b"data: 1\n\nev", b"ent: e\ndata: 2\n\n"),
    ],
)
async def test_bytes_in_every_form_are_decoded(origin):
    assert await everything(origin) == [("message", 1), ("e", 2)]


async def test_async_chunks_are_decoded():
    assert await everything(later(b"data: 1\n", b"\n")) == [("message", 1)]


async def test_objects_are_passed_on_unchanged():
    thing = object()
    assert await everything([thing, {"a": 1}]) == [thing, {"a": 1}]
    assert await everything(later(thing)) == [thing]


@pytest.mark.parametrize("origin", [{"a": 1}, "data: 1", 5, None])
def test_a_source_that_is_not_a_stream_is_rejected(origin):
    with pytest.raises(TypeError):
        source(origin)


@pytest.mark.parametrize("bad", [b"{", b"9" * 5000, b"[" * 100_000])
async def test_invalid_json_is_passed_on_in_order_as_an_error(bad):
    one, error, two = await everything(b"data: 1\n\ndata: " + bad + b"\n\ndata: 2\n\n")
    assert (one, two) == (("message", 1), ("message", 2))
    assert isinstance(error, StreamUnreadable)


@pytest.mark.parametrize("empty", [b"data:\n\n", b"data\n\n", b"event: x\n\n", b": keepalive\n\n"])
async def test_events_without_data_are_ignored(empty):
    body = empty + b"data: 1\n\n" + empty + b"data: [DONE]\n\ndata: [DONE]\n\n"
    assert await everything(body) == [("message", 1)]


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\r\n "])
async def test_a_body_of_plain_json_is_an_error(head):
    assert await everything([head + b'{"error":', b' {"code": 1}}']) == [
        ("error", {"error": {"code": 1}})
    ]
    assert await everything(head + b"<html>") == []


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_responses_of_real_clients_are_read(library):
    answer = b"data: 1\n\n"
    transport = library.MockTransport(lambda request: library.Response(200, content=iter([answer])))
    with (
        library.Client(transport=transport) as client,
        client.stream("GET", "http://server/") as response,
    ):
        assert await everything(response) == [("message", 1)]
    chunked = library.MockTransport(
        lambda request: library.Response(200, content=later(answer[:5], answer[5:]))
    )
    async with (
        library.AsyncClient(transport=chunked) as client,
        client.stream("GET", "http://server/") as response,
    ):
        assert await everything(response) == [("message", 1)]


async def test_an_exception_of_a_source_that_is_no_exception_of_its_reader_is_contained():
    async def leaves():
        yield {"a": 1}
        raise SystemExit(2)

    stream = ResponsesStream(leaves())
    (_, end) = [event async for event in stream]
    assert (end.status, stream.error.code) == ("failed", "source_failed")


async def test_a_sync_source_does_not_block_the_event_loop():
    asked, answered = threading.Event(), threading.Event()

    def blocking():
        asked.set()
        assert answered.wait(PATIENCE_S), "the loop does not run"
        yield "now"

    reading = source(blocking())

    async def answer():
        await asyncio.to_thread(asked.wait, 20)
        answered.set()

    answering = asyncio.create_task(answer())
    assert await reading.pull() == "now"
    await answering


@pytest.mark.parametrize("blocking", [False, True])
async def test_silence_is_limited(blocking):
    release = threading.Event()

    def silent():
        release.wait(PATIENCE_S)
        yield

    async def silent_too():
        await asyncio.sleep(3600)
        yield

    reading = source(silent() if blocking else silent_too(), idle_timeout_s=0.05)
    try:
        with pytest.raises(TimeoutError):
            await reading.pull()
        await reading.aclose()
    finally:
        release.set()


async def test_closing_calls_the_close_method_of_the_source_once():
    closed = []

    class Stream:
        def __aiter__(self):
            return later("x")

        async def close(self):
            closed.append("async")

    reading = source(Stream())
    await reading.pull()
    await reading.aclose()
    await reading.aclose()
    origin = Chunked(b"data: 1\n\n")
    blocking = source(origin)
    blocking.pull_now()
    await blocking.aclose()
    assert (closed, origin.closed) == (["async"], True)


async def test_a_connection_that_does_not_close_is_abandoned(monkeypatch):
    monkeypatch.setattr("rehydrate.providers.vendor_source.CLOSE_TIMEOUT_S", 0.01)

    class Stuck:
        def __aiter__(self):
            return later("x")

        async def aclose(self):
            await asyncio.sleep(3600)

    await source(Stuck()).aclose()


async def test_draining_is_limited_and_does_not_raise():
    read = []

    async def endless():
        while True:
            read.append(1)
            yield "more"

    async def broken():
        raise OSError
        yield

    await source(endless()).drain()
    await source(broken()).drain()
    await source(["left"]).drain()
    assert 0 < len(read) < 100


def test_an_async_source_is_not_pulled_without_await():
    with pytest.raises(TypeError, match="async for"):
        source(later()).pull_now()
