"""The Responses stream: golden transcripts in every form, the package's client, resuming, text."""

from __future__ import annotations

import io
import shutil

import pytest

from providers.conftest import eventually
from providers.sinks import Folded
from providers.transcribed import NAMES, known_types, transcript, typed, wire
from rehydrate.providers.failures import StreamBroken, VendorFailed, VendorIncomplete
from rehydrate.providers.openai_responses import RULES, ResponsesStream
from rehydrate.providers.vendor_events import Ended, TextDelta, ToolCallStarted, Unknown
from scripted_openai.endpoint import CUT, Stall
from scripted_openai.turns import ResponseTurn

GOLDEN = [name for name in NAMES if name.startswith("responses_")]
ASK = {"model": "gpt-5", "input": "?", "stream": True}


def cut(body: bytes, size: int):
    for at in range(0, len(body), size):
        yield body[at : at + size]


async def chunked(body: bytes, size: int):
    for chunk in cut(body, size):
        yield chunk


FORMS = {
    "dicts": lambda recorded: recorded["events"],
    "a generator of dicts": lambda recorded: (event for event in recorded["events"]),
    "the package's events": typed,
    "bytes": lambda recorded: wire(recorded["events"]),
    "chunks of bytes": lambda recorded: list(cut(wire(recorded["events"]), 7)),
    "async chunks of bytes": lambda recorded: chunked(wire(recorded["events"]), 11),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GOLDEN)
async def test_a_transcript_gives_the_same_answer_in_every_form(name, form):
    recorded = transcript(name)
    sink = Folded()
    end = await ResponsesStream(FORMS[form](recorded)).into(sink)
    assert sink.parts == recorded["parts"]
    assert (sink.status, sink.error) == (recorded["status"], recorded["error"])
    assert end.status == recorded["status"]
    assert not sink.needs_repair, "the deltas equal the final content"


def test_every_type_in_the_package_is_in_a_transcript_and_in_the_rules():
    seen = {event["type"] for name in GOLDEN for event in transcript(name)["events"]}
    known = known_types("responses")
    assert known <= seen
    assert known <= set(RULES)


async def test_unknown_types_are_counted_and_passed_on():
    stream = ResponsesStream(transcript("responses_odds")["events"])
    unknown = [event async for event in stream if isinstance(event, Unknown)]
    assert [event.raw["wonder"] for event in unknown] == [True]
    assert stream.unknown == {"response.from_the_future": 1}


async def test_streams_of_the_client_are_read(vendor):
    vendor.endpoint.answer = lambda asked: ResponseTurn().message("By the client.").completed()
    async with vendor.client() as client:
        stream = ResponsesStream(await client.responses.create(**ASK))
        assert [text async for text in stream.text()] == ["By", " the", " client."]
        assert (stream.response_id, stream.error) == ("resp_1", None)
        async with client.responses.stream(model="gpt-5", input="?") as helper:
            sink = Folded()
            await ResponsesStream(helper).into(sink)
        async with client.responses.with_streaming_response.create(**ASK) as response:
            raw = Folded()
            await ResponsesStream(response).into(raw)
    assert sink.text == raw.text == "By the client."


def test_a_stream_of_the_sync_client_can_be_read_as_a_text_file(vendor):
    vendor.endpoint.answer = lambda asked: (
        ResponseTurn().message("One line.\nAnother line.").completed()
    )
    with vendor.sync_client() as client:
        copied = io.StringIO()
        shutil.copyfileobj(ResponsesStream(client.responses.create(**ASK)).reader(), copied)
        with ResponsesStream(client.responses.create(**ASK)).reader() as lines:
            assert list(lines) == ["One line.\n", "Another line."]
        events = list(ResponsesStream(client.responses.create(**ASK)))
    assert copied.getvalue() == "One line.\nAnother line."
    assert isinstance(events[-1], Ended)


async def test_a_stream_can_be_read_as_an_async_text_file(vendor):
    vendor.endpoint.answer = lambda asked: ResponseTurn().message("One\ntwo\nthree").completed()
    async with vendor.client() as client:
        stream = ResponsesStream(await client.responses.create(**ASK))
        async with stream.async_reader() as reader:
            assert await reader.read(2) == "On"
            assert [line async for line in reader] == ["e\n", "two\n", "three"]


async def test_text_readers_raise_the_error_of_the_stream():
    recorded = transcript("responses_incomplete")
    reader = ResponsesStream(recorded["events"]).async_reader()
    assert "".join([await reader.read(5) for _ in range(4)]) == "As far as it"
    with pytest.raises(VendorIncomplete, match="max_output_tokens"):
        await reader.read(5)
    cut = ResponsesStream(recorded["events"][:6])
    with pytest.raises(StreamBroken):
        list(cut.text_now())
    assert isinstance(cut.error, StreamBroken)


@pytest.mark.parametrize("blocking", [False, True])
async def test_leaving_a_stream_closes_its_connection(vendor, blocking):
    vendor.endpoint.answer = lambda asked: [*ResponseTurn().message("One").events, Stall(60)]
    if blocking:
        with (
            vendor.sync_client() as client,
            ResponsesStream(client.responses.create(**ASK)) as stream,
        ):
            next(event for event in stream if isinstance(event, TextDelta))
    else:
        async with (
            vendor.client() as client,
            ResponsesStream(await client.responses.create(**ASK)) as stream,
        ):
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_the_connection_of_a_finished_stream_is_reused(vendor):
    vendor.endpoint.answer = lambda asked: ResponseTurn().message("One").completed()
    async with vendor.client() as client:
        for _ in range(3):
            await ResponsesStream(await client.responses.create(**ASK)).into(Folded())
        pool = client._client._transport._pool
        assert len(pool.connections) == 1
        assert "HTTP/1.1, IDLE, Request Count: 3" in repr(pool.connections[0])


async def test_a_background_response_resumes_without_duplicates(vendor):
    events = ResponseTurn().message("one two three four").completed()
    vendor.endpoint.answer = lambda asked: [*events[:7], CUT, *events[7:]]
    sink = Folded()
    async with vendor.client() as client:
        stream = ResponsesStream(await client.responses.create(**ASK, background=True))
        async for event in stream:
            if not isinstance(event, Ended):
                event.write_to(sink)
        assert isinstance(stream.error, StreamBroken)
        assert (stream.sequence_number, sink.text) == (6, "one two three")
        stream.resume(events)  # a server that ignores `starting_after` repeats everything
        end = await stream.into(sink)
    assert (end.status, sink.text) == ("completed", "one two three four")
    assert not sink.needs_repair


@pytest.mark.parametrize("after", range(11))
async def test_another_process_can_resume_at_any_event(vendor, after):
    events = ResponseTurn().message("one two three").calls(("c", "t", {"a": 1})).completed()
    vendor.endpoint.answer = lambda asked: events
    async with vendor.client() as client:
        first = ResponsesStream(await client.responses.create(**ASK, background=True))
        sink = Folded()
        async for event in first:
            if first.sequence_number > after:
                break
            event.write_to(sink)
        await first.aclose()
        source = await client.responses.retrieve("resp_1", stream=True, starting_after=after)
        end = await ResponsesStream(source, starting_after=after).into(sink)
    assert end.status == "completed"
    assert sink.text == "one two three"
    assert sink.final == sink.parts


async def test_final_text_takes_precedence_over_deltas():
    turn = ResponseTurn().message("Right text.", pieces=["Wrong", " text."])
    sink = Folded()
    stream = ResponsesStream(turn.completed())
    await stream.into(sink)
    assert (stream.amended, sink.needs_repair) == (True, True)
    assert sink.final == [{"type": "text", "text": "Right text.", "part": "0.0"}]


async def test_an_answer_without_deltas_is_emitted_at_its_end():
    output = ResponseTurn().message("All at once.").calls(("c", "t", {})).output
    response = ResponseTurn().response("completed") | {"output": output}
    sink = Folded()
    stream = ResponsesStream([{"type": "response.completed", "response": response}])
    events = [event async for event in stream]
    for event in events:
        event.write_to(sink)
    assert sink.text == "All at once."
    assert any(isinstance(event, ToolCallStarted) for event in events)
    assert not sink.needs_repair


async def test_an_error_raised_by_the_package_becomes_the_vendors_error(vendor):
    error = {"type": "error", "error": {"code": "server_error", "message": "Boom"}}
    events = [*ResponseTurn().message("So").events, error]
    vendor.endpoint.answer = lambda asked: events
    async with vendor.client() as client:
        stream = ResponsesStream(await client.responses.create(**ASK))
        assert [text async for text in _until_error(stream)] == ["So"]
    assert isinstance(stream.error, VendorFailed)
    assert stream.error.public_detail == "server_error: Boom"


async def _until_error(stream):
    async for event in stream:
        if isinstance(event, TextDelta):
            yield event.text


def test_an_async_stream_is_not_read_without_await():
    async def source():
        yield {"type": "response.created", "response": {"id": "r"}}

    with pytest.raises(TypeError, match="async for"):
        next(ResponsesStream(source()))
