"""Malformed input of the Responses API ends the answer with a specific error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from providers.sinks import Folded
from providers.spoiling import check_ends_once, spoiled, spoiled_everywhere
from providers.transcribed import NAMES, transcript
from rehydrate.providers.openai_responses import ResponsesStream
from scripted_openai.turns import ResponseTurn

GOLDEN = [name for name in NAMES if name.startswith("responses_")]


def said(**more):
    """Return the events of a response with the text `It is`, and one more."""
    return [*ResponseTurn().message("It is", pieces=["It", " is"]).events[:6], more]


def delta(number=6, **more):
    at = {"item_id": "msg_0", "output_index": 0, "content_index": 0, "delta": " so"}
    return {"type": "response.output_text.delta", "sequence_number": number} | at | more


def without(event, *keys):
    return {key: value for key, value in event.items() if key not in keys}


BROKE = "stream_broke_off"
ODD = {
    "no type": ({"sequence_number": 6}, "failed", "malformed_event: an event without a type", "It is"),
    "a type that is none": ({"type": 5}, "failed", "malformed_event: an event without a type", "It is"),
    "no delta": (without(delta(), "delta"), "failed", "malformed_event: response.output_text.delta has no text", "It is"),
    "a delta that is no text": (delta(delta=5), "failed", "malformed_event", "It is"),
    "no item": ({"type": "response.output_item.added", "output_index": 1}, "failed", "malformed_event", "It is"),
    "an item without a type": (
        {"type": "response.output_item.added", "output_index": 1, "item": {}},
        "failed", "malformed_event: an item without a type", "It is",
    ),
    "no place": (without(delta(), "output_index"), "incomplete", BROKE, "It is so"),
    "a place that is none": (delta(output_index=-1), "incomplete", BROKE, "It is so"),
    "an unknown place": (delta(output_index=7), "incomplete", BROKE, "It is so"),
    "an unknown item": (delta(item_id="msg_x"), "incomplete", BROKE, "It is so"),
    "a number again": (delta(number=5), "incomplete", "event_out_of_order: response.output_text.delta 5 after 5", "It is so"),
    "a number from before": (delta(number=2), "incomplete", "event_out_of_order", "It is so"),
    "another id": (
        {"type": "response.in_progress", "response": {"id": "resp_x"}}, "incomplete", BROKE, "It is",
    ),
    "another response": (
        {"type": "response.created", "response": {"id": "resp_x"}},
        "failed", "foreign_response: response.created begins another response", "It is",
    ),
    "an end with another id": ({"type": "response.completed", "response": {"id": "resp_x"}}, "completed", None, "It is"),
    "an end without a response": ({"type": "response.completed"}, "completed", None, "It is"),
    "a failure without a word": ({"type": "response.failed", "response": {}}, "failed", "vendor_failed", "It is"),
    "an error without a word": ({"type": "error"}, "failed", "vendor_failed", "It is"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_odd_input_keeps_the_text_and_has_its_reason(name):
    event, status, error, text = ODD[name]
    sink = Folded()
    await ResponsesStream(said(**event)).into(sink)
    assert (sink.status, sink.text) == (status, text)
    assert sink.error == error if error is None else sink.error.startswith(error)


@pytest.mark.parametrize("name", ODD)
async def test_odd_input_does_not_fail_an_answer_whose_end_is_whole(name):
    event, *_ = ODD[name]
    if event.get("type") in ("response.completed", "response.failed", "error", "response.created"):
        return  # the answer ends there
    whole = ResponseTurn().message("It is so", pieces=["It", " is"]).completed()
    sink = Folded()
    stream = ResponsesStream([*whole[:6], event, *whole[6:]])
    await stream.into(sink)
    assert (sink.status, sink.error) == ("completed", None)
    assert [part["text"] for part in sink.final] == ["It is so"]


async def test_a_delta_after_its_part_is_done_is_ignored():
    turn = ResponseTurn().message("It is")
    whole = ResponseTurn().message("It is").completed()
    sink = Folded()
    await ResponsesStream([*turn.events, delta(len(turn.events)), whole[-1]]).into(sink)
    assert (sink.status, sink.text) == ("completed", "It is")
    assert not sink.needs_repair


async def test_malformed_json_fails_after_the_events_before_it():
    sink = Folded()
    body = b'data: {"type": "response.created", "response": {"id": "r"}}\n\ndata: {"type": \n\n'
    await ResponsesStream(body).into(sink)
    assert sink.status == "failed"
    assert sink.error.startswith("malformed_event: Expecting value")


async def test_events_that_are_missing_without_a_final_text_leave_it_incomplete():
    turn = ResponseTurn().message("one two three")
    events = [event for event in turn.events if event["sequence_number"] not in (5, 7, 8, 9)]
    last = {"type": "response.completed", "sequence_number": 10}
    sink = Folded()
    await ResponsesStream([*events, last | {"response": {"id": "resp_1"}}]).into(sink)
    assert (sink.status, sink.text) == ("incomplete", "one three")
    assert sink.error.startswith("events_missing")


async def test_a_part_with_missing_deltas_is_completed_at_its_end():
    events = ResponseTurn().message("one two three").completed()
    events = [event for event in events if event["sequence_number"] != 6]
    sink = Folded()
    stream = ResponsesStream(events)
    await stream.into(sink)
    assert (sink.status, sink.text) == ("completed", "one two three")
    assert stream.amended  # sequence numbers were skipped, and the final text replaced the deltas
    assert not sink.needs_repair


async def test_text_of_items_other_than_messages_is_not_part_of_the_answer():
    turn = ResponseTurn().calls(("c", "t", {}))
    at = {"item_id": "fc_0", "output_index": 0, "content_index": 0, "delta": "x"}
    event = {"type": "response.output_text.delta", "sequence_number": len(turn.events)}
    sink = Folded()
    await ResponsesStream([*turn.events, event | at]).into(sink)
    assert sink.text == ""


async def test_numbers_that_are_not_json_are_left_out():
    events = ResponseTurn().message("It is").completed()
    events[-1]["response"]["usage"] = {"total_tokens": float("nan")}
    sink = Folded()
    await ResponsesStream(events).into(sink)
    assert sink.ending == ("completed", None, None)


async def test_streams_without_sequence_numbers_are_read():
    events = [without(event, "sequence_number") for event in transcript("responses_text")["events"]]
    sink = Folded()
    stream = ResponsesStream(events)
    await stream.into(sink)
    assert (sink.text, stream.sequence_number) == ("Once upon a time.", None)


@pytest.mark.parametrize("name", GOLDEN)
def test_one_corruption_anywhere_ends_the_answer_once_without_raising(name):
    for events in spoiled_everywhere(name):
        check_ends_once(ResponsesStream(events))


@settings(max_examples=300, deadline=None)
@given(spoiled(GOLDEN))
def test_many_corruptions_end_the_answer_once_without_raising(events):
    check_ends_once(ResponsesStream(events))
