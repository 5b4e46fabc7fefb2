"""Tool calls of a run: deltas by index, complete calls, and results that are emitted once."""

from __future__ import annotations

import pytest

from rehydrate.providers.assistants_calls import AssistantsCalls, RunContent
from rehydrate.providers.failures import StreamUnreadable
from rehydrate.providers.interpreting import RawEvent
from rehydrate.providers.vendor_events import (
    ToolArgsDelta,
    ToolCallDone,
    ToolCallStarted,
    ToolResult,
)
from scripted_openai.turns import RunTurn


def incoming(build) -> RawEvent:
    event = build(RunTurn("thread_1", "run_1")).events[-1]
    return RawEvent(event["event"], None, event["data"])


def delta(step_id, *calls) -> RawEvent:
    return incoming(lambda turn: turn.step_delta(step_id, *calls))


def function(args=None, **more):
    return {"type": "function", "function": {"name": "sum", "arguments": args}} | more


def test_deltas_of_parallel_calls_are_separated_by_step_and_index():
    content = RunContent()
    calls = AssistantsCalls(content)
    begun = delta("s", function("", index=0, id="a"), function("", index=1, id="b"))
    assert [event.tool_call_id for event in calls.delta(begun)] == ["a", "b"]
    more = delta("s", function("{", index=1), function("[", index=0))
    assert [(event.tool_call_id, event.text) for event in calls.delta(more)] == [
        ("b", "{"),
        ("a", "["),
    ]
    other = list(calls.delta(delta("t", function("(", index=0, id="c"))))
    assert [type(event) for event in other] == [ToolCallStarted, ToolArgsDelta]
    assert content.parts() is None
    assert list(content.begun) == ["a", "b", "c"]


def test_required_calls_are_completed_before_they_are_returned():
    calls = AssistantsCalls(RunContent())
    list(calls.delta(delta("s", function('{"a"', index=0, id="a"))))
    asked = [function('{"a": 1}', id="a"), function("{}", id="b")]
    events = list(calls.requested(incoming(lambda turn: turn.run("requires_action")), asked))
    assert [type(event) for event in events] == [
        ToolArgsDelta, ToolCallStarted, ToolArgsDelta, ToolCallDone, ToolCallDone,
    ]  # fmt: skip
    assert (events[0].text, events[3].args, events[4].name) == (": 1}", '{"a": 1}', "sum")


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_a_result_is_emitted_once_and_completes_its_part(state):
    content = RunContent()
    calls = AssistantsCalls(content)
    whole = {
        "id": "a",
        "type": "function",
        "function": {"name": "sum", "arguments": "{}", "output": "3"},
    }
    step = incoming(
        lambda turn: turn.step(state, "s", {"type": "tool_calls", "tool_calls": [whole]})
    )
    read = calls.completed if state == "completed" else calls.failed
    (result,) = [event for event in read(step) if isinstance(event, ToolResult)]
    assert result.result == ("3" if state == "completed" else {"error": "failed"})
    assert not [event for event in read(step) if isinstance(event, ToolResult)]
    (part,) = content.parts()
    assert (part["result"], part["status"]) == (result.result, state)


def test_arguments_that_differ_from_their_deltas_set_amended():
    calls = AssistantsCalls(RunContent())
    list(calls.delta(delta("s", function("wrong", index=0, id="a"))))
    list(
        calls.requested(
            incoming(lambda turn: turn.run("requires_action")), [function("{}", id="a")]
        )
    )
    assert calls.amended


@pytest.mark.parametrize(
    "call", [{"id": "a"}, {"id": "a", "index": -1}, {"index": 0}, {"index": 0, "id": 5}]
)
def test_a_call_without_an_index_or_an_id_is_rejected(call):
    with pytest.raises(StreamUnreadable, match="malformed_event"):
        list(AssistantsCalls(RunContent()).delta(delta("s", call)))
