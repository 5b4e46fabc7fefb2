"""A stream is read once, closed at its end, can be resumed, and never hides an error."""

from __future__ import annotations

import asyncio

import pytest

from providers.sinks import Folded
from rehydrate.providers.failures import ProviderError, StreamBroken
from rehydrate.providers.openai_responses import ResponsesStream
from rehydrate.providers.vendor_events import Ended
from scripted_openai.turns import ResponseTurn

EVENTS = ResponseTurn().message("One two").completed()


class Closing:
    """An async source that records how it is used."""

    def __init__(self, events, error=None):
        self.events = iter(events)
        self.error = error
        self.pulled = 0
        self.closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.pulled += 1
        for event in self.events:
            return event
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def aclose(self):
        self.closed += 1


async def test_a_stream_is_read_only_as_fast_as_its_consumer():
    source = Closing(EVENTS)
    stream = ResponsesStream(source)
    await anext(stream)
    await anext(stream)
    assert source.pulled == 2


async def test_the_end_closes_the_source_once():
    source = Closing(EVENTS)
    async with ResponsesStream(source) as stream:
        assert stream.end is None
        assert [event async for event in stream][-1] == stream.end
        assert stream.error is None
    assert source.closed == 1
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("error", [OSError("gone"), ZeroDivisionError(), RuntimeError("odd")])
async def test_exceptions_of_the_source_become_the_error_of_the_end(error):
    source = Closing(EVENTS[:-1], error)
    stream = ResponsesStream(source)
    sink = Folded()
    end = await stream.into(sink)
    assert (end.error, end.error.__cause__) == (stream.error, error)
    assert isinstance(stream.error, ProviderError)
    assert sink.text == "One two"
    assert source.closed == 1


async def test_exceptions_of_the_sink_close_the_source_and_propagate():
    class Full(Folded):
        def write(self, text, *, part=None):
            raise MemoryError

    source = Closing(EVENTS)
    with pytest.raises(MemoryError):
        await ResponsesStream(source).into(Full())
    assert source.closed == 1


async def test_cancellation_closes_the_source_and_propagates():
    async def silent():
        for event in EVENTS[:6]:
            yield event
        await asyncio.sleep(3600)

    sink = Folded()
    task = asyncio.create_task(ResponsesStream(silent()).into(sink))
    await sink.wait_for_text("One two")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.ending is None


async def test_a_partly_read_stream_can_be_written_into_a_sink():
    stream, sink = ResponsesStream(EVENTS), Folded()
    for _ in range(6):
        (await anext(stream)).write_to(sink)
    await stream.into(sink)
    assert (sink.text, sink.status) == ("One two", "completed")


def test_a_sync_stream_ends_and_resumes():
    stream = ResponsesStream(EVENTS[:5])
    assert isinstance(list(stream)[-1], Ended)
    assert isinstance(stream.error, StreamBroken)
    stream.resume(EVENTS[5:])
    assert "".join(stream.text_now()) == " two"
    assert stream.error is None
    with pytest.raises(StopIteration):
        next(stream)
