"""Malformed input of the Assistants API ends the answer with a specific error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from providers.sinks import Folded
from providers.spoiling import check_ends_once, spoiled, spoiled_everywhere
from providers.transcribed import NAMES
from rehydrate.providers.openai_assistants import AssistantsStream
from scripted_openai.turns import RunTurn

GOLDEN = [name for name in NAMES if name.startswith("assistants_")]


def said(event):
    turn = RunTurn("thread_1", "run_1").run("created")
    turn.message_event("created", "msg_1", [])
    turn.message_delta("msg_1", block("It is"))
    return [*turn.events, event]


def block(text, **more):
    return {"index": 0, "type": "text", "text": {"value": text}} | more


def one(build):
    return build(RunTurn("thread_1", "run_1")).events[-1]


BAD = {
    "no name": ({"data": {}}, "malformed_event: an event without a name"),
    "no data": ({"event": "thread.run.queued"}, "malformed_event: thread.run.queued without"),
    "an action that asks nothing": (
        one(lambda turn: turn.run("requires_action", required_action=None)),
        "malformed_event: thread.run.requires_action has no tool calls",
    ),
    "another run": (
        RunTurn("thread_1", "run_x").run("in_progress").events[-1],
        "foreign_run: the stream belongs to another run",
    ),
    "another thread": (
        RunTurn("thread_x", "run_1").run("in_progress").events[-1],
        "foreign_thread: the stream belongs to another thread",
    ),
    "another thread's message": (
        RunTurn("thread_x", "run_1").message_event("created", "msg_2", []).events[-1],
        "foreign_thread",
    ),
    "an error without a name": ({"message": "Boom", "code": "x"}, "x: Boom"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_fails_with_its_reason_and_keeps_the_text(name):
    event, error = BAD[name]
    sink = Folded()
    await AssistantsStream(said(event)).into(sink)
    assert (sink.status, sink.text) == ("failed", "It is")
    assert sink.error.startswith(error)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (one(lambda turn: turn.message_delta("msg_x", block("?"))), "It is?"),
        (one(lambda turn: turn.message_delta("msg_1", block("?", index=None))), "It is?"),
        (one(lambda turn: turn.step_delta("step_1", {"index": 0, "type": "function"})), "It is"),
        (RunTurn("thread_1", "").run("in_progress").events[-1], "It is"),
    ],
    ids=["an unknown message", "no index", "a call without an id", "a run without an id"],
)
async def test_what_lacks_an_id_or_an_index_is_still_read(event, text):
    sink = Folded()
    await AssistantsStream(said(event)).into(sink)
    assert (sink.status, sink.text) == ("incomplete", text)
    assert sink.error.startswith("stream_broke_off")


async def test_a_delta_after_its_message_is_done_is_ignored():
    turn = RunTurn("thread_1", "run_1").run("created").message("It is")
    sink = Folded()
    stream = AssistantsStream(turn.message_delta("msg_1", block("?")).completed())
    await stream.into(sink)
    assert (sink.status, sink.text, stream.amended) == ("completed", "It is", True)


async def test_a_message_that_was_never_completed_leaves_the_answer_incomplete():
    events = said(RunTurn("thread_1", "run_1").completed()[-1])
    sink = Folded()
    await AssistantsStream(events).into(sink)
    assert (sink.status, sink.text) == ("incomplete", "It is")
    assert sink.error.startswith("events_missing")


async def test_messages_of_users_are_not_part_of_the_answer():
    turn = RunTurn("thread_1", "run_1").run("created")
    turn.message_event("created", "msg_u", [], role="user")
    turn.message_delta("msg_u", block("My question"))
    sink = Folded()
    await AssistantsStream(turn.message("The answer").completed()).into(sink)
    assert sink.parts == [{"type": "text", "text": "The answer", "part": "0.0"}]


async def test_a_message_without_deltas_is_emitted_at_its_end():
    turn = RunTurn("thread_1", "run_1").run("created")
    content = [{"type": "text", "text": {"value": "All at once"}}]
    sink = Folded()
    await AssistantsStream(turn.message_event("completed", "m", content).completed()).into(sink)
    assert sink.text == "All at once"
    assert not sink.needs_repair


async def test_final_text_takes_precedence_over_deltas():
    turn = RunTurn("thread_1", "run_1").run("created").message_event("created", "msg_1", [])
    turn.message_delta("msg_1", block("Wrong"))
    content = [{"type": "text", "text": {"value": "Right"}}]
    stream = AssistantsStream(turn.message_event("completed", "msg_1", content).completed())
    sink = Folded()
    await stream.into(sink)
    assert (stream.amended, sink.needs_repair, sink.final[0]["text"]) == (True, True, "Right")


@pytest.mark.parametrize("name", GOLDEN)
def test_one_corruption_anywhere_ends_the_answer_once_without_raising(name):
    for events in spoiled_everywhere(name):
        check_ends_once(AssistantsStream(events))


@settings(max_examples=300, deadline=None)
@given(spoiled(GOLDEN))
def test_many_corruptions_end_the_answer_once_without_raising(events):
    check_ends_once(AssistantsStream(events))
