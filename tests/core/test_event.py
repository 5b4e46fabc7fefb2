"""An event of a kind has the fields of that kind, and no others."""

from __future__ import annotations

import pytest

from rehydrate.core.event import (
    CONTENT,
    STATUSES,
    TERMINAL,
    TEXTUAL,
    UNDECODED,
    Event,
    Version,
)


def test_every_status_but_one_is_terminal():
    assert TERMINAL | {"in_progress"} == STATUSES
    assert len(TERMINAL) == 5


def test_kinds_that_append_text_are_content():
    assert TEXTUAL < CONTENT
    assert not CONTENT & {"prompt", "start", "stop", "repair", "cancel"}


@pytest.mark.parametrize(
    ("made", "fields"),
    [
        (Event.prompt("p", "hi", seq=None), {"kind": "prompt", "text": "hi"}),
        (Event.start("r", prompt_id="p", seq=0), {"kind": "start", "prompt_id": "p", "seq": 0}),
        (Event.token("r", "a", part="x"), {"kind": "token", "text": "a", "part": "x"}),
        (
            Event.token("r", "a", status="completed", version=Version("v")),
            {"kind": "token", "text": "a", "status": "completed", "version": Version("v")},
        ),
        (
            Event.tool_call("r", "c", name="f", args={"x": 1}),
            {"kind": "tool_call", "tool_call_id": "c", "name": "f", "value": {"x": 1}},
        ),
        (
            Event.tool_args("r", "c", "{"),
            {"kind": "tool_args", "tool_call_id": "c", "text": "{"},
        ),
        (
            Event.tool_result("r", "c", 4, name="f"),
            {"kind": "tool_result", "tool_call_id": "c", "value": 4, "name": "f"},
        ),
        (
            Event.tool_result("r", "c", None, failed=True),
            {"kind": "tool_result", "tool_call_id": "c", "status": "failed"},
        ),
        (Event.void("r", seq=3), {"kind": "void", "seq": 3}),
        (
            Event.stop("r", status="failed", usage={"n": 1}, error="e", gen=2),
            {"kind": "stop", "status": "failed", "value": {"n": 1}, "error": "e", "gen": 2},
        ),
        (Event.repair("r", text="a"), {"kind": "repair", "text": "a"}),
        (Event.repair("r", parts=[]), {"kind": "repair", "value": []}),
        (Event.cancel("r", client_id="u"), {"kind": "cancel", "client_id": "u"}),
    ],
)
def test_each_kind_has_a_constructor_that_names_its_content(made, fields):
    empty = {
        **dict.fromkeys(Event._fields),
        "message_id": made.message_id,
        "gen": 1,
        "timestamp_ms": 0,
        "ephemeral": False,
        "unreadable": 0,
    }
    assert made._asdict() == empty | fields


def test_text_is_constructed_unchecked_and_equals_the_checked_event():
    fast = Event.content("refusal", "r", 2, 3, "s", "i", "c", 4, "no", "p", "o", True)
    assert fast == Event(
        "refusal", "r", 2, 3, "s", "i", "c", 4, text="no", part="p", replay_of="o", ephemeral=True
    )
    assert type(fast) is Event


@pytest.mark.parametrize(
    ("kind", "fields", "complaint"),
    [
        ("token", {}, "a token needs a text"),
        ("prompt", {}, "a prompt needs a text"),
        ("tool_call", {"name": "f"}, "a tool_call needs a tool_call_id"),
        ("tool_args", {"tool_call_id": "c"}, "a tool_args needs a text"),
        ("tool_result", {"value": 1}, "a tool_result needs a tool_call_id"),
        ("stop", {"text": "a"}, "a stop has no text"),
        ("start", {"value": 1}, "a start has no value"),
        ("token", {"text": "a", "tool_call_id": "c"}, "a token has no tool_call_id"),
        ("tool_args", {"text": "a", "tool_call_id": "c", "part": "x"}, "a tool_args has no part"),
        ("tool_args", {"text": "a", "tool_call_id": "c", "name": "f"}, "a tool_args has no name"),
        ("token", {"text": "a", "error": "e"}, "a token has no error"),
        ("token", {"text": "a", "prompt_id": "p"}, "a token has no prompt_id"),
        ("repair", {"status": "completed"}, "a repair has no status"),
        ("void", {"text": "a"}, "a void has no text"),
        ("cancel", {"text": "a"}, "a cancel has no text"),
        ("stop", {"status": "in_progress"}, "the status of a stop is terminal"),
        ("token", {"text": "a", "status": "completed"}, "a token has a status only with a version"),
    ],
)
def test_an_illegal_event_cannot_be_built(kind, fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        Event(kind, "r", **fields)


def test_an_illegal_event_cannot_be_made_of_a_legal_one():
    with pytest.raises(ValueError, match="a token needs a text"):
        Event.token("r", "a")._replace(text=None)
    with pytest.raises(ValueError, match="a stop has no text"):
        Event.token("r", "a")._replace(kind="stop")
    assert Event.token("r", "a")._replace(seq=4) == Event.token("r", "a", seq=4)


def test_an_event_at_the_same_place_keeps_the_place_and_nothing_else():
    where = {
        "gen": 2,
        "seq": 3,
        "serial": "s",
        "id": "i",
        "client_id": "c",
        "timestamp_ms": 4,
    }
    event = Event.token("r", "a", part="x", replay_of="o", ephemeral=True, **where)
    assert event.at_same_place("stop", status="failed") == Event.stop("r", status="failed", **where)


def test_an_event_at_the_place_of_a_version_has_the_serial_of_the_version():
    event = Event.token("r", "a", serial="s", version=Version("v"))
    assert event.at_same_place("void").serial == "v"
    assert event.at_same_place("void").version is None


@pytest.mark.parametrize(
    ("event", "ends"),
    [
        (Event.token("r", "a", version=Version("v"), status="completed"), True),
        (Event.token("r", "a", version=Version("v")), False),
        (Event.tool_result("r", "c", 1, version=Version("v"), failed=True), False),
    ],
)
def test_a_version_with_a_status_ends_the_response_unless_it_is_a_tool_result(event, ends):
    assert event.ends is ends


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        (Event.repair("r"), True),
        (Event.repair("r", text=""), False),
        (Event.repair("r", parts=[]), False),
        (Event.token("r", ""), False),
    ],
)
def test_a_repair_without_text_and_parts_points_to_the_store(event, pointer):
    assert event.is_pointer is pointer


def test_undecoded_data_has_the_same_name_in_every_process():
    """Names of tests contain it, which all processes of a run have to agree on."""
    assert repr(UNDECODED) == "UNDECODED"
