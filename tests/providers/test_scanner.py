"""Both vendors' streams read as typed events, as text and as a file, without background tasks."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import threading

import pytest

from providers.transcribed import NAMES, transcript, wire
from rehydrate.providers.failures import ProviderError
from rehydrate.providers.openai_assistants import AssistantsStream
from rehydrate.providers.openai_responses import ResponsesStream
from rehydrate.providers.vendor_events import Ended, TextDelta

STREAMS = {"responses": ResponsesStream, "assistants": AssistantsStream}
both = pytest.mark.parametrize("vendor", STREAMS)


def stream_of(name, events=None):
    recorded = transcript(name)
    return STREAMS[recorded["vendor"]](recorded["events"] if events is None else events)


@pytest.mark.parametrize("name", NAMES)
def test_every_event_has_the_type_of_its_source_and_the_last_is_the_end(name):
    recorded = transcript(name)
    types = {event.get("event") or event["type"] for event in recorded["events"]}
    *before, end = stream_of(name)
    assert isinstance(end, Ended)
    assert not any(isinstance(event, Ended) for event in before)
    assert all(event.type in types for event in before)


@both
def test_events_are_matched_by_their_kind(vendor):
    said = ""
    for event in stream_of(f"{vendor}_text"):
        match event:
            case TextDelta(text=text):
                said += text
            case Ended(status=status, error=None):
                assert status == "completed"
    assert said == "".join(stream_of(f"{vendor}_text").text_now())


@pytest.mark.parametrize("name", NAMES)
def test_the_log_has_every_translation_and_no_text(name, caplog):
    caplog.set_level(logging.DEBUG, "rehydrate.providers")
    recorded = transcript(name)
    end = [*stream_of(name)][-1]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(recorded["events"]) or said[-1].endswith("Ended")
    for event, line in zip(recorded["events"], said, strict=False):
        assert line.startswith((event.get("event") or event["type"])[:100])
    texts = [part["text"] for part in end.parts or () if "text" in part]
    assert not [
        word for text in texts for word in text.split() if len(word) > 7 and word in str(said)
    ]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (
            {"type": "response.of_tomorrow", "text": "secret"},
            "response.of_tomorrow (None) became Unknown",
        ),
        ({"type": "response.created", "sequence_number": 0}, "response.created (0) became nothing"),
        ({"type": "response.output_text.delta", "delta": ["secret"]}, "became Unknown"),
        ({"words": "secret"}, "an unparsed event (None) became Unknown"),
    ],
)
def test_unknown_repeated_and_malformed_events_are_logged(raw, line, caplog):
    caplog.set_level(logging.DEBUG, "rehydrate.providers")
    list(ResponsesStream([raw], starting_after=3))
    said = [record.getMessage() for record in caplog.records]
    assert line in str(said)
    assert "secret" not in str(said)


@both
async def test_an_async_reader_starts_no_background_task(vendor):
    events = transcript(f"{vendor}_text")["events"]

    async def source():
        for event in events:
            yield event

    tasks, threads = asyncio.all_tasks(), threading.active_count()
    async for _ in STREAMS[vendor](source()):
        assert asyncio.all_tasks() == tasks
        assert threading.active_count() == threads


@both
def test_a_sync_reader_starts_no_thread(vendor):
    threads = threading.active_count()
    with STREAMS[vendor]([wire(transcript(f"{vendor}_text")["events"])]) as stream:
        for _ in stream:
            assert threading.active_count() == threads
    assert threading.active_count() == threads


@both
async def test_a_failure_is_reported_by_every_kind_of_reader(vendor):
    name = f"{vendor}_failed"
    stream = stream_of(name)
    assert stream.error is None
    list(stream)
    assert stream.error is not None
    with pytest.raises(ProviderError, match=stream.error.code):
        list(stream_of(name).text_now())
    with pytest.raises(ProviderError, match=stream.error.code):
        stream_of(name).reader().read()
    with pytest.raises(ProviderError, match=stream.error.code):
        [_ async for _ in STREAMS[vendor](_later(name)).text()]
    with pytest.raises(ProviderError, match=stream.error.code):
        await STREAMS[vendor](_later(name)).async_reader().read()


async def _later(name):
    for event in transcript(name)["events"]:
        yield event


@both
def test_the_text_file_works_with_functions_that_read_files(vendor):
    text = "".join(stream_of(f"{vendor}_text").text_now())
    file = stream_of(f"{vendor}_text").reader()
    assert isinstance(file, io.TextIOBase)
    assert file.readable()
    rows = list(csv.reader(file, delimiter="\0"))
    assert "\n".join(row[0] for row in rows if row) == text.strip("\n")


@both
async def test_closing_closes_the_source(vendor):
    closed = []

    class Source(list):
        def close(self):
            closed.append(self)

    stream = STREAMS[vendor](Source(transcript(f"{vendor}_text")["events"]))
    next(iter(stream))
    stream.close()
    assert len(closed) == 1
