"""UI messages, and one response as the chunks of a UI message stream."""

from __future__ import annotations

import pytest

from rehydrate.api import ui_messages
from rehydrate.api.ui_messages import Chunks


def body(parts=(), *, status="in_progress", id_="r", gen=1, **more):
    return {
        "id": id_,
        "role": "assistant",
        "status": status,
        "text": "".join(part.get("text", "") for part in parts),
        "parts": list(parts),
        "prompt_id": None,
        "through": {"gen": gen},
        **more,
    }


def text(value, type_="text", **more):
    return {"type": type_, "text": value, **more}


def call(args, result=None, status="in_progress", **more):
    named = {"type": "tool_call", "tool_call_id": "t", "name": "add"}
    return {**named, "args": args, "result": result, "status": status, **more}


class EventStub:
    """A follower event."""

    def __init__(self, kind, **data):
        self.kind = kind
        self.data = data if kind == "snapshot" else {"message_id": "r", "gen": 1, **data}


def snapshot(*bodies):
    return EventStub("snapshot", messages=list(bodies))


def chunks(*events):
    """Return the chunks of *events* except the first, which starts the message."""
    made = Chunks("r")
    sent = [chunk for each in events for chunk in made.convert(each)]
    assert sent[0]["type"] == "start"
    return sent[1:]


def kinds(sent):
    return [chunk["type"] for chunk in sent]


# -- messages -------------------------------------------------------------------------------------


def test_a_message_keeps_its_text_and_status():
    shown = ui_messages.message(body([text("hm", "reasoning"), text("so")], status="completed"))
    assert shown["parts"] == [
        {"type": "reasoning", "text": "hm", "state": "done"},
        {"type": "text", "text": "so", "state": "done"},
    ]
    assert shown["metadata"] == {"status": "completed"}
    (part,) = ui_messages.message(body([text("so")]))["parts"]
    assert part["state"] == "streaming"


def test_a_prompt_has_its_text_as_a_part():
    prompt = {**body(status="completed", id_="p"), "role": "user", "text": "why?"}
    shown = ui_messages.message(prompt)
    assert (shown["role"], shown["parts"][0]["text"]) == ("user", "why?")


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (call('{"a":1}'), {"state": "input-available", "input": {"a": 1}}),
        (call('{"a'), {"state": "input-available", "input": '{"a'}),
        (call(""), {"state": "input-available", "input": {}}),
        (
            call({}, [2], "completed"),
            {"state": "output-available", "input": {}, "output": [2]},
        ),
        (
            call({}, {"error": "no such city"}, "failed"),
            {"state": "output-error", "input": {}, "errorText": "no such city"},
        ),
        (
            call({}, {"error": {"code": 4}}, "failed"),
            {"state": "output-error", "input": {}, "errorText": '{"code":4}'},
        ),
        (
            call({}, None, "failed"),
            {"state": "output-error", "input": {}, "errorText": ui_messages._NO_RESULT},
        ),
        (
            call({}, None, "incomplete"),
            {"state": "output-error", "input": {}, "errorText": ui_messages._NO_RESULT},
        ),
    ],
)
def test_a_tool_call_is_a_dynamic_tool_in_its_state(part, shown):
    (found,) = ui_messages.message(body([part]))["parts"]
    named = {"type": "dynamic-tool", "toolName": "add", "toolCallId": "t"}
    assert found == {**named, **shown}


def test_a_refusal_is_a_text_with_provider_metadata():
    (part,) = ui_messages.message(body([text("no", "refusal")]))["parts"]
    assert (part["type"], part["providerMetadata"]) == ("text", {"rehydrate": {"refusal": True}})


# -- chunks ---------------------------------------------------------------------------------------


def test_a_streaming_response_is_sent_from_its_start_and_continues():
    sent = chunks(
        snapshot(body([text("Once")])),
        EventStub("token", text=" upon"),
        EventStub("token", text="!", message_id="another"),
        EventStub("stop", status="completed", usage={"n": 1}),
    )
    assert sent[:4] == [
        {"type": "text-start", "id": "0"},
        {"type": "text-delta", "id": "0", "delta": "Once"},
        {"type": "text-delta", "id": "0", "delta": " upon"},
        {"type": "text-end", "id": "0"},
    ]
    metadata = {"status": "completed", "usage": {"n": 1}}
    assert sent[4] == {"type": "message-metadata", "messageMetadata": metadata}
    assert sent[5] == {"type": "finish", "finishReason": "stop"}


def test_reasoning_and_text_are_separate_parts():
    sent = chunks(
        snapshot(body()), EventStub("reasoning", text="hm"), EventStub("token", text="so")
    )
    assert kinds(sent) == [
        "reasoning-start",
        "reasoning-delta",
        "reasoning-end",
        "text-start",
        "text-delta",
    ]


def test_parts_with_keys_grow_concurrently():
    names = ["a", "b", "a"]
    sent = chunks(snapshot(body()), *[EventStub("token", text=n, part=n) for n in names])
    assert [chunk["id"] for chunk in sent] == ["0", "0", "1", "1", "0"]


def test_a_tool_call_is_sent_step_by_step():
    sent = chunks(
        snapshot(body()),
        EventStub("tool_call", tool_call_id="t", name="add", args=""),
        EventStub("tool_args", tool_call_id="t", text='{"a":'),
        EventStub("tool_args", tool_call_id="t", text="1}"),
        EventStub("tool_result", tool_call_id="t", result=[2]),
    )
    assert kinds(sent) == [
        "tool-input-start",
        "tool-input-delta",
        "tool-input-delta",
        "tool-input-available",
        "tool-output-available",
    ]
    assert (sent[3]["input"], sent[4]["output"]) == ({"a": 1}, [2])


@pytest.mark.parametrize(
    "events",
    [
        [EventStub("tool_result", tool_call_id="t", result={"error": "no"}, status="failed")],
        [EventStub("again"), snapshot(body([call("{}", {"error": "no"}, "failed")]))],
    ],
)
def test_a_failed_tool_call_is_an_output_error(events):
    sent = chunks(snapshot(body([call("{}")])), *events, EventStub("token", text="!"))
    assert kinds(sent)[-4:] == [
        "tool-input-available",
        "tool-output-error",
        "text-start",
        "text-delta",
    ]
    assert sent[-3] == {
        "type": "tool-output-error",
        "toolCallId": "t",
        "dynamic": True,
        "errorText": "no",
    }


def test_a_new_snapshot_adds_only_the_missed_chunks():
    begun = snapshot(body([text("Once"), call("", None)]))
    more = snapshot(body([text("Once"), call("{}", [2], "completed"), text("so")]))
    sent = chunks(begun, EventStub("again"), more, more, EventStub("token", text="!"))
    assert kinds(sent) == [
        "text-start",
        "text-delta",
        "tool-input-start",
        "tool-input-delta",
        "tool-input-available",
        "tool-output-available",
        "text-end",
        "text-start",
        "text-delta",
        "text-delta",
    ]


@pytest.mark.parametrize(
    "events",
    [
        EventStub("repair", text="Twice", parts=[text("Twice")]),
        snapshot(body([text("Twice")])),
        snapshot(body([])),
        snapshot(),
        snapshot(body([text("Once", "reasoning")])),
        EventStub("start", gen=2),
        snapshot(body([text("Once upon")], gen=2)),
    ],
)
def test_a_change_of_sent_chunks_ends_the_stream_with_an_error(events):
    sent = chunks(snapshot(body([text("Once")])), events, EventStub("token", text=" upon"))
    assert sent[-1] == {"type": "error", "errorText": ui_messages._CHANGED}
    assert "text-delta" not in kinds(sent)[2:]


def test_a_repair_that_only_appends_does_not_end_the_stream():
    sent = chunks(snapshot(body([text("Once")])), EventStub("repair", text="Once upon"))
    assert sent[-1] == {"type": "text-delta", "id": "0", "delta": " upon"}


@pytest.mark.parametrize(
    ("stop", "last"),
    [
        ({"status": "incomplete"}, {"type": "finish", "finishReason": "length"}),
        ({"status": "interrupted"}, {"type": "finish", "finishReason": "other"}),
        ({"status": "cancelled"}, {"type": "abort", "reason": "cancelled"}),
        ({"status": "failed", "error": {"message": "x"}}, {"type": "error", "errorText": "x"}),
        ({"status": "failed"}, {"type": "error", "errorText": "the response failed"}),
    ],
)
def test_the_end_of_the_stream_matches_the_status(stop, last):
    assert chunks(snapshot(body()), EventStub("stop", **stop))[-1] == last


def test_the_requested_or_the_newest_response_is_streamed():
    events = [snapshot(body(id_="a"), body(id_="b"), body(id_="c", status="completed"))]
    assert ui_messages.streaming(events, None)["id"] == "b"
    assert ui_messages.streaming(events, "a")["id"] == "a"
    assert ui_messages.streaming(events, "c") is None
    assert ui_messages.streaming([], None) is None


# -- gaps -----------------------------------------------------------------------------------------

GAP = {"type": "data-gap", "id": "gap-3-3", "data": {"first": 3, "last": 3}}
GAPPED = body([text("abd", gaps=[[2, 3, 3]])], gaps=[[3, 3]], exact=True)


def test_text_is_cut_at_a_gap_and_the_message_is_not_exact():
    shown = ui_messages.message(GAPPED)
    texts = [(part["type"], part.get("text")) for part in shown["parts"]]
    assert texts == [("text", "ab"), ("data-gap", None), ("text", "d")]
    assert shown["parts"][1] == GAP
    assert (shown["metadata"]["exact"], shown["metadata"]["gaps"]) == (False, [[3, 3]])


def test_gaps_at_the_ends_of_parts_and_of_the_message_are_shown():
    parts = [
        text("a", gaps=[[0, 1, 1], [1, 3, 4]]),
        call("{", gaps=[[0, 6, 6]]),
        text("", gaps=[[0, 8, 8]]),
    ]
    shown = ui_messages.message(body(parts, gaps=[[1, 1], [3, 4], [6, 6], [8, 8]]))
    assert [part.get("text") or part.get("id") or part["toolCallId"] for part in shown["parts"]] == [
        "gap-1-1", "a", "gap-3-4", "t", "gap-6-6", "gap-8-8"
    ]  # fmt: skip
    empty = ui_messages.message(body(gaps=[[1, 2]]))
    assert (empty["metadata"]["exact"], empty["metadata"]["gaps"]) == (False, [[1, 2]])


def test_a_message_that_is_whole_has_no_gaps_in_its_metadata():
    metadata = ui_messages.message(body([text("a")], gaps=[], exact=True))["metadata"]
    assert metadata == {"status": "in_progress", "exact": True}
    inexact = ui_messages.message(body([text("a")], gaps=[], exact=False))["metadata"]
    assert (inexact["exact"], inexact["gaps"]) == (False, [])


def test_a_stream_sends_a_gap_between_two_texts_and_continues_after_it():
    made = Chunks("r")
    (begun, *sent) = made.convert(snapshot(GAPPED))
    assert (begun["messageMetadata"]["exact"], begun["messageMetadata"]["gaps"]) == (
        False,
        [[3, 3]],
    )
    sent += made.convert(EventStub("token", text="e"))
    assert sent == [
        {"type": "text-start", "id": "0"},
        {"type": "text-delta", "id": "0", "delta": "ab"},
        {"type": "text-end", "id": "0"},
        GAP,
        {"type": "text-start", "id": "2"},
        {"type": "text-delta", "id": "2", "delta": "d"},
        {"type": "text-delta", "id": "2", "delta": "e"},
    ]


@pytest.mark.parametrize("key", [None, "x"])
def test_a_gap_that_appears_in_the_next_snapshot_is_sent_with_its_metadata(key):
    part = {} if key is None else {"part": key}
    later = body([text("ab", gaps=[[2, 3, 3]], **part)], gaps=[[3, 3]], exact=True)
    made = Chunks("r")
    made.convert(snapshot(body([text("ab", **part)], exact=True, gaps=[])))
    assert made.convert(snapshot(later)) == [
        {"type": "message-metadata", "messageMetadata": {"exact": False, "gaps": [[3, 3]]}},
        {"type": "text-end", "id": "0"},
        GAP,
    ]
    assert made.convert(snapshot(later)) == []
    assert kinds(made.convert(EventStub("token", text="d", **part))) == ["text-start", "text-delta"]


def test_a_gap_that_is_filled_ends_the_stream_with_an_error():
    made = Chunks("r")
    made.convert(snapshot(GAPPED))
    filled = made.convert(snapshot(body([text("abcd")], gaps=[], exact=True)))
    assert kinds(filled)[-1] == "error"
    assert made.done


def test_what_cannot_be_read_is_in_the_metadata_of_a_message_and_of_the_stream():
    lacking = body([text("a")], exact=False, gaps=[], unreadable=2)
    assert ui_messages.message(lacking)["metadata"]["unreadable"] == 2
    made = Chunks("r")
    made.convert(snapshot(body([text("a")], exact=True, gaps=[])))
    (chunk,) = made.convert(EventStub("token", text="", unreadable=1))
    assert chunk["messageMetadata"] == {"exact": False, "gaps": [], "unreadable": 1}
    assert made.convert(EventStub("token", text="")) == []
    (chunk, *_) = made.convert(snapshot(lacking))
    assert chunk["messageMetadata"]["unreadable"] == 2
    (chunk, *_) = made.convert(snapshot(body([text("ab")], exact=True, gaps=[])))
    assert chunk["messageMetadata"] == {"exact": True, "gaps": [], "unreadable": 0}
