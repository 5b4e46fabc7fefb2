"""The Assistants stream: golden transcripts in every form, and the package's own streams."""

from __future__ import annotations

import pytest

from providers.sinks import Folded
from providers.transcribed import NAMES, known_types, transcript, typed, wire
from rehydrate.providers.openai_assistants import RULES, AssistantsStream
from rehydrate.providers.vendor_events import ActionRequired, Annotation, Ended, Image, TextDelta
from scripted_openai.turns import RunTurn

GOLDEN = [name for name in NAMES if name.startswith("assistants_")]
FORMS = {
    "dicts": lambda recorded: recorded["events"],
    "the package's events": typed,
    "bytes": lambda recorded: wire(recorded["events"]) + b"event: done\ndata: [DONE]\n\n",
    "chunks of bytes": lambda recorded: (
        wire(recorded["events"])[i : i + 9] for i in range(0, 6000, 9)
    ),
}


def hello(asked):
    turn = RunTurn(asked.thread_id, asked.run_id, new_thread=asked.thread_is_new)
    turn.run("created").run("in_progress")
    if asked.kind == "run" and asked.body.get("instructions") == "use tools":
        return turn.calls("step_1", ("call_a", "weather", {"city": "Paris"}))
    return turn.message("Hello there.").completed()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GOLDEN)
async def test_a_transcript_gives_the_same_answer_in_every_form(name, form):
    recorded = transcript(name)
    sink = Folded()
    await AssistantsStream(FORMS[form](recorded)).into(sink)
    assert sink.parts == recorded["parts"]
    assert (sink.status, sink.error) == (recorded["status"], recorded["error"])
    assert not sink.needs_repair


def test_every_type_in_the_package_is_in_a_transcript_and_in_the_rules():
    seen = {event["event"] for name in GOLDEN for event in transcript(name)["events"]}
    assert seen >= known_types("assistants")
    assert set(RULES) >= known_types("assistants")


async def test_images_citations_and_ids_are_typed():
    stream = AssistantsStream(transcript("assistants_content")["events"])
    events = [event async for event in stream]
    assert [event.image for event in events if isinstance(event, Image)] == [
        {"file_id": "file_2"},
        {"url": "https://example.org/a.png"},
    ]
    assert [event.annotation["text"] for event in events if isinstance(event, Annotation)] == [
        "[1]"
    ]
    assert (stream.thread_id, stream.run_id) == ("thread_1", "run_1")
    assert isinstance(events[-1], Ended)


async def test_text_of_several_messages_is_read_as_one():
    stream = AssistantsStream(transcript("assistants_content")["events"])
    assert "".join([text async for text in stream.text()]) == "See [1].And more."
    assert (
        AssistantsStream(transcript("assistants_text")["events"]).reader().read() == "Hello there."
    )


async def test_a_waiting_run_continues_with_the_stream_of_its_outputs():
    first = RunTurn("thread_1", "run_1").run("created")
    stream = AssistantsStream(first.calls("step_1", ("call_a", "weather", {"city": "Paris"})))
    sink = Folded()
    events = [event async for event in stream]
    for event in events[:-1]:
        event.write_to(sink)
    action = next(event for event in events if isinstance(event, ActionRequired))
    assert [(call.name, call.args) for call in action.calls] == [("weather", '{"city": "Paris"}')]
    assert (action.run_id, action.thread_id) == ("run_1", "thread_1")
    assert stream.waiting == action
    second = RunTurn("thread_1", "run_1")
    second.answered("step_1", ("call_a", "weather", {"city": "Paris"}, "clear"))
    stream.resume(second.message("Clear.").completed())
    await stream.into(sink)
    assert stream.waiting is None
    assert sink.parts[0]["result"] == "clear"
    assert (sink.text, sink.status) == ("Clear.", "completed")
    assert not sink.needs_repair


async def test_streams_of_the_package_are_read(vendor):
    vendor.endpoint.answer = hello
    async with vendor.client() as client:
        runs = client.beta.threads
        with pytest.warns(DeprecationWarning, match="Assistants"):
            source = await runs.create_and_run(
                assistant_id="asst_1",
                thread={"messages": [{"role": "user", "content": "Hi"}]},
                stream=True,
            )
        stream = AssistantsStream(source)
        assert [text async for text in stream.text()] == ["Hello", " there."]
        with pytest.warns(DeprecationWarning, match="Assistants"):
            manager = runs.runs.stream(thread_id="thread_1", assistant_id="asst_1")
        async with manager as handler:
            sink = Folded()
            await AssistantsStream(handler, thread_id="thread_1").into(sink)
    assert (sink.text, stream.thread_id) == ("Hello there.", "thread_1")


def test_sync_streams_of_the_package_are_read(vendor):
    vendor.endpoint.answer = hello
    with vendor.sync_client() as client:
        runs = client.beta.threads.runs
        vendor.endpoint.threads["thread_7"] = ["Hi"]
        with pytest.warns(DeprecationWarning, match="Assistants"):
            source = runs.create(
                thread_id="thread_7", assistant_id="a", instructions="use tools", stream=True
            )
        with AssistantsStream(source) as stream:
            action = next(event for event in stream if isinstance(event, ActionRequired))
        with pytest.warns(DeprecationWarning, match="Assistants"):
            source = runs.submit_tool_outputs(
                action.run_id,
                thread_id=action.thread_id,
                tool_outputs=[{"tool_call_id": action.calls[0].tool_call_id, "output": "clear"}],
                stream=True,
            )
        stream.resume(source)
        assert [event.text for event in stream if isinstance(event, TextDelta)] == [
            "Hello",
            " there.",
        ]
    assert stream.error is None
