"""Typed events: what each writes into a response, and the limit on results shown to readers."""

from __future__ import annotations

import dataclasses

import pytest

from providers.sinks import Folded
from rehydrate.core.event import Event
from rehydrate.providers import vendor_events
from rehydrate.providers.failures import StreamBroken
from rehydrate.providers.vendor_events import (
    RESULT_BYTES_MAX,
    Ended,
    Image,
    Progress,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolArgsDelta,
    ToolCallStarted,
    ToolResult,
    VendorEvent,
    shown,
)
from rehydrate.publish.respond import Response

KINDS = [kind for kind in vars(vendor_events).values() if isinstance(kind, type)]


def test_all_events_are_frozen_and_have_their_type_first():
    kinds = [kind for kind in KINDS if issubclass(kind, VendorEvent)]
    assert len(kinds) > 15
    for kind in kinds:
        assert [field.name for field in dataclasses.fields(kind)][:2] == ["type", "sequence_number"]
        assert kind.__dataclass_params__.frozen


def test_each_event_writes_what_it_adds():
    sink = Folded()
    for event in (
        TextDelta("t", 1, "0.0", "Yes"),
        RefusalDelta("t", 2, "0.1", "No"),
        ReasoningDelta("t", 3, "0.s0", "Hm"),
        ToolCallStarted("t", 4, "c", "sum", "function_call"),
        ToolArgsDelta("t", 5, "c", "{}"),
        ToolResult("t", 6, "c", "sum", 7),
        Image("t", 7, "image-0.2", {"file_id": "f"}),
        Progress("t", 8, {}),
        Ended("t", 9, "incomplete", {"n": 1}, StreamBroken("cut"), None),
    ):
        event.write_to(sink)
    assert [part["type"] for part in sink.parts] == [
        "text", "refusal", "reasoning", "tool_call", "tool_call",
    ]  # fmt: skip
    assert (sink.parts[3]["args"], sink.parts[3]["result"]) == ("{}", 7)
    assert (sink.parts[4]["name"], sink.parts[4]["result"]) == ("image", {"file_id": "f"})
    assert sink.ending == ("incomplete", {"n": 1}, "cut")


def test_events_can_be_matched():
    match TextDelta("t", 1, "0.0", "Yes"):
        case TextDelta(type="t", text=text):
            assert text == "Yes"
        case _:
            pytest.fail("it did not match")


def test_a_published_response_is_a_sink():
    class Out:
        id, gen, said = "r", 1, []

        def emit(self, kind, **fields):
            self.said.append(Event(kind, "r", **fields).kind)

    out = Out()
    response = Response(out)  # the real class with a fake output
    TextDelta("t", 1, "0.0", "Yes").write_to(response)
    ToolCallStarted("t", 4, "c", "sum", "function_call").write_to(response)
    ToolResult("t", 6, "c", "sum", 7).write_to(response)
    Ended("t", 9, "failed", None, StreamBroken("cut"), []).write_to(response)
    ToolResult("t", 7, "c", "sum", {"error": "no"}, failed=True).write_to(response)
    assert out.said == ["token", "tool_call", "tool_result", "tool_result"]
    assert (out.ending.status, out.ending.error) == ("failed", "cut")


def test_results_too_large_for_readers_are_left_out():
    assert shown({"a": [1]}) == {"a": [1]}
    assert shown("x" * RESULT_BYTES_MAX) == {"omitted_bytes": RESULT_BYTES_MAX + 2}
    assert shown(object()) == {"omitted": "object"}
    assert shown([float("nan")]) == {"omitted": "list"}
