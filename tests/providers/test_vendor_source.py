"""Sources of events: accepted types, pulling, the limit on silence, and closing."""

from __future__ import annotations

import asyncio
import threading

import pytest

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


async def test_invalid_json_is_raised_in_order():
    reading = source(b"data: 1\n\ndata: {\n\n")
    assert await reading.pull() == ("message", 1)
    with pytest.raises(ValueError, match="Expecting"):
        await reading.pull()


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
