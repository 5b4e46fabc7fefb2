"""The wire form, and messages back from it."""

from __future__ import annotations

import json

import pytest

from core.builders import (
    BEGAN_MS,
    event,
    folded,
    published,
    serial,
    start,
    stop,
    text_of,
    timeline_of,
    token,
)
from core.growing import create, full
from rehydrate.core import wire
from rehydrate.core.codecs import decode
from rehydrate.core.event import Version
from rehydrate.core.fold import MessageState, Outcome, fold
from rehydrate.core.json import load
from rehydrate.core.text.content import collapsed_run
from rehydrate.core.timeline import Reason
from rehydrate.core.window import ErasedStream, Exclusions

CALL = event("tool_call", 2, tool_call_id="c", name="f", value={"q": 1})


def back(state):
    """Return *state* as a client reads it from the wire form."""
    return wire.state_of(json.loads(wire.encode(state)))


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (BEGAN_MS, "2026-01-01T00:00:00.000Z"),
        (BEGAN_MS + 7, "2026-01-01T00:00:00.007Z"),
        (None, None),
    ],
)
def test_times_are_rfc_3339_in_utc_and_back(at_ms, text):
    assert wire.timestamp(at_ms) == text
    assert wire.timestamp_ms(text) == at_ms


def test_a_time_of_another_zone_or_of_none_is_read():
    assert wire.timestamp_ms("2026-01-01T02:00:00+02:00") == BEGAN_MS
    assert wire.timestamp_ms("2026-01-01T00:00:00") == BEGAN_MS


def test_text_that_is_not_a_time_is_refused():
    with pytest.raises(ValueError, match="Invalid"):
        wire.timestamp_ms("yesterday")


def test_a_response_in_progress_has_its_position():
    body = wire.message(folded(start(prompt_id="p-1"), token(1, "Once "), token(2, "upon")))
    assert body == {
        "id": "r",
        "role": "assistant",
        "status": "in_progress",
        "text": "Once upon",
        "parts": [{"type": "text", "text": "Once upon"}],
        "prompt_id": "p-1",
        "started_at": "2026-01-01T00:00:00.000Z",
        "finished_at": None,
        "through": {"gen": 1, "seq": 2, "serial": token(2, "").serial, "id": token(2, "").id},
        "gaps": [],
        "repaired": None,
        "exact": True,
        "unreadable": 0,
        "client_id": None,
    }


def test_a_prompt_has_its_text_and_no_parts():
    (prompt,) = timeline_of(published("user-input", {"promptId": "p", "text": "hi"})).ordered
    body = wire.message(prompt)
    assert (body["role"], body["status"], body["text"], body["parts"]) == (
        "user",
        "completed",
        "hi",
        [],
    )
    assert body["through"]["seq"] is None
    assert body["finished_at"] == body["started_at"]


def test_usage_error_and_metadata_are_present_if_set():
    state = folded(token(1, "a"), stop(2, value={"n": 1}, error="e"))
    state.metadata = {"k": "v"}
    body = wire.message(state)
    assert (body["usage"], body["error"], body["metadata"]) == ({"n": 1}, "e", {"k": "v"})


def test_gaps_are_first_and_last_of_each():
    body = json.loads(wire.encode(folded(token(1, "a"), token(3, "c"), token(7, "g"))))
    assert body["gaps"] == [[2, 2], [4, 6]]


STATES = {
    "nothing yet": MessageState("r"),
    "only claimed": folded(start()),
    "streaming": folded(start(), token(1, "a"), CALL, event("reasoning", 3, "hm", part="x")),
    "gaps": folded(start(), token(1, "a"), token(3, "c"), token(9, "i")),
    "first seq missing": folded(token(3, "c")),
    "ended": folded(start(), token(1, "a"), stop(2)),
    "ended with gaps": folded(token(2, "b"), stop(9)),
    "ended behind a gap by a stop with the last seq": folded(start(), token(2, "b"), stop(2)),
    "ended and empty": folded(start(), stop(1)),
    "ended with an open call": folded(CALL, stop(3)),
    "repaired": folded(token(1, "a"), event("repair", 3, "abc"), token(4, "d")),
    "taken over": folded(token(1, "a"), token(1, "b", gen=2, at_s=3)),
    "with an owner": folded(token(1, "a", client_id="agent")),
    "without seq": folded(
        event("start", None, at_s=0),
        event("token", None, "a", at_s=1),
        event("token", None, "b", at_s=2),
    ),
    "without seq, ended": folded(event("token", None, "a", at_s=1), event("stop", None, at_s=2)),
    "prompt": folded(event("prompt", None, "hi", at_s=1), state=MessageState("p", "user")),
    "pointed at": folded(token(1, "a"), event("repair", 4, None)),
    "edited": folded(start(), token(1, "a"), token(1, "A")._replace(edit=serial(BEGAN_MS + 9_000))),
    "unreadable": folded(start(), token(1, "a"), event("void", 2, unreadable=1)),
    "unreadable, ended": folded(event("void", 1, unreadable=1), stop(2)),
    "an unreadable version": timeline_of(create(1, 5), create(2, "b")).messages["r"],
    "halves": folded(token(1, "\ud83d"), token(2, "\ude00")),
}


@pytest.mark.parametrize("name", STATES)
def test_a_message_read_back_from_its_wire_form_has_that_wire_form(name):
    body = json.loads(wire.encode(STATES[name]))
    assert json.loads(wire.encode(wire.state_of(body))) == body


def test_an_anonymous_or_provisional_message_stays_so():
    (state,) = timeline_of(published("token", "a")).ordered
    state.status, state.provisional = "interrupted", True
    read = back(state)
    assert (read.anonymous, read.provisional, read.position) == (True, True, state.position)
    assert list(read.recent) == ["m0"]


def test_what_goes_on_from_the_wire_form_goes_on_from_the_state():
    for rest in ([token(3, "c"), stop(4)], [event("repair", 2, "AB"), token(3, "c")], [stop(3)]):
        state = folded(start(), token(1, "a"), token(2, "b"))
        read = back(state)
        for each in rest:
            assert fold(read, each) is fold(state, each)
        assert wire.message(read) | {"recent_ids": 0} == wire.message(state) | {"recent_ids": 0}


def test_an_end_by_the_idle_limit_does_not_count_the_events():
    state = folded(start(), token(1, "a"))
    state.status, state.provisional = "interrupted", True
    read = back(state)
    fold(read, token(4, "d"))
    assert (read.status, read.gaps()) == ("in_progress", [(2, 3)])


def test_a_finished_message_read_back_takes_only_repairs():
    read = back(folded(start(), token(1, "a"), stop(2)))
    assert fold(read, token(3, "x")) is Outcome.OLD
    assert fold(read, token(1, "x", at_s=7)) is Outcome.OLD
    assert text_of(read) == "a"


def test_an_answer_joins_what_is_encoded_already():
    body = wire.answer(
        conversation_id="c",
        channel="ai:c",
        until=None,
        rewind_from=None,
        reasons=[],
        older=None,
        exclusions=Exclusions(),
        messages=[b'{"id":"a"}', b'{"id":"b"}'],
    )
    assert json.loads(body) == {
        "conversation_id": "c",
        "channel": "ai:c",
        "until": None,
        "rewind_from": None,
        "complete": True,
        "reasons": [],
        "older": None,
        "agents": [],
        "erased_to": None,
        "messages": [{"id": "a"}, {"id": "b"}],
    }


@pytest.mark.parametrize(
    "exclusions",
    [Exclusions(), Exclusions(("bot",), BEGAN_MS, ("r",), ErasedStream("s", is_open=True))],
    ids=["none", "all"],
)
def test_an_answer_names_the_events_that_readers_drop(exclusions):
    body = wire.answer(
        conversation_id="c",
        channel="ai:c",
        until=None,
        rewind_from=None,
        reasons=[],
        older=None,
        messages=[],
        exclusions=exclusions,
    )
    assert wire.exclusions_of(json.loads(body)) == exclusions
    assert (b"erased_ids" in body) is bool(exclusions.erased_ids)
    assert (b"erased_stream" in body) is (exclusions.erased_stream is not None)


def test_an_answer_of_an_earlier_release_excludes_nothing():
    assert wire.exclusions_of({"messages": []}) == Exclusions()


@pytest.mark.parametrize(
    ("state", "whole"),
    [
        (folded(start(), token(1, "a"), stop(2)), True),
        (folded(start(), token(1, "a"), token(3, "c"), stop(4)), False),
        (folded(token(1, "a")), True),
        (folded(event("token", None, "a")), False),
    ],
    ids=["whole", "a gap", "tokens from 1", "no start"],
)
@pytest.mark.parametrize(
    "also",
    [
        None,
        {"exact": False, "gaps": [[1, 2]]},
        {"gaps": [], "repaired": False, "exact": True},
        [{"gaps": [], "repaired": True, "exact": True}],
        '"exact":false',
        '"exact":true}',
    ],
)
def test_a_message_is_whole_if_it_is_exact_and_has_no_gaps(state, whole, also):
    state.metadata = also
    assert wire.shortcomings(wire.encode(state)) == (set() if whole else {"not_exact"})


def test_what_could_not_be_read_is_a_shortcoming_of_its_own():
    unread = event("void", 1, unreadable=1)
    assert wire.shortcomings(wire.encode(folded(start(), unread))) == {"unreadable"}
    both = folded(start(), unread, token(3, "c"))
    assert wire.shortcomings(wire.encode(both)) == {"unreadable", "not_exact"}


def test_a_repair_makes_a_message_exact_that_was_read_back_with_unreadable_content():
    read = back(folded(start(), event("void", 1, unreadable=1), token(2, "b")))
    assert (read.unreadable, read.exact) == (1, False)
    fold(read, event("repair", 2, "ab", at_s=3))
    assert (read.unreadable, read.exact) == (0, True)


def test_a_version_that_can_be_read_replaces_one_that_could_not():
    read = back(timeline_of(create(1, 5)).messages["r"])
    assert (read.unreadable, read.parts()[0]["through"]["unreadable"]) == (1, True)
    fold(read, decode(full(1, 2, "ab")))
    assert (read.unreadable, text_of(read)) == (0, "ab")


@pytest.mark.parametrize(
    "text", ["", "a", '","parts":[', 'x\\","parts":[{"type', '"text":"', "\\", '\\"', "é😀\ud800"]
)
def test_the_text_is_left_out_where_parts_contain_it(text):
    state = MessageState(',"text":"', "assistant")
    state.metadata = {"text": "x", "parts": ["y"]}
    state.runs = [collapsed_run(0, 0, [{"type": "text", "text": text}], 1)]
    whole = wire.message(state)
    once = load(wire.without_text(wire.encode(state)))
    if whole["parts"]:
        del whole["text"]
    assert once == whole
    assert wire.message(wire.state_of(once)) == wire.message(wire.state_of(wire.message(state)))


def test_a_prompt_without_parts_keeps_its_text():
    state = MessageState("p", "user")
    state.runs = [collapsed_run(0, 0, [{"type": "text", "text": "hi"}], 1)]
    assert wire.without_text(wire.encode(state)) == wire.encode(state)


def test_an_answer_with_a_reason_is_not_complete():
    reason = Reason("history_unavailable", retry=True, detail="because")
    body = wire.answer(
        conversation_id="c",
        channel="ai:c",
        until="u",
        rewind_from="w",
        reasons=[reason],
        older="o",
        exclusions=Exclusions(),
        messages=[],
    )
    told = json.loads(body)
    assert (told["complete"], told["messages"]) == (False, [])
    assert told["reasons"] == [{"code": "history_unavailable", "retry": True, "detail": "because"}]


def test_a_repair_of_the_whole_replaces_it_after_the_stop_too():
    read = back(folded(start(), token(1, "a"), token(2, "b"), stop(3)))
    fold(read, event("repair", 2, "AB", at_s=9))
    assert (text_of(read), read.repaired, read.gaps()) == ("AB", 2, [])


def test_an_end_without_any_content_is_read_back():
    read = back(folded(stop(0)))
    assert (read.status, read.gaps(), text_of(read)) == ("completed", [], "")


def test_the_ids_of_the_margin_are_known_for_the_margin_after_the_answer():
    state = folded(
        event("start", None, at_s=0),
        event("token", None, "a", at_s=1, id_="one"),
        event("token", None, "b", at_s=4, id_="two"),
    )
    read = back(state)
    for at_s, letter in ((6, "c"), (8, "d")):
        fold(read, event("token", None, letter, at_s=at_s))
    assert fold(read, event("token", None, "b", at_s=9, id_="two")) is Outcome.OLD
    assert text_of(read) == "abcd"


def test_the_position_of_its_row_is_that_of_the_message():
    body = wire.message(folded(*[start(), token(1, "a")]))
    assert wire.state_of(body).position is None
    assert wire.state_of(body, position="s").position == "s"


def test_versioned_messages_and_attempts_are_read_back():
    step = Version("v1", is_last=False, step="s", attempt="a1")
    state = folded(event("token", None, "a", at_s=1)._replace(version=step))
    body = wire.message(state)
    assert body["steps"] == {"s": "a1"}
    again = back(state)
    assert (text_of(again), again.steps, list(again.versioned)) == (
        "a",
        {"s": "a1"},
        list(state.versioned),
    )
    empty = wire.state_of(body | {"parts": [], "text": ""})
    assert not any(run.segments for run in empty.runs)


def test_a_message_of_versioned_messages_alone_has_no_runs():
    state = timeline_of(create(1, "a")).messages["r"]
    assert back(state).runs == []


def test_the_last_millisecond_of_the_calendar_is_exact_and_later_times_are_refused():
    last = "9999-12-31T23:59:59.999Z"
    assert wire.timestamp_ms(last) == wire.MAX_MS
    assert wire.timestamp(wire.MAX_MS) == last
    for later in ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59-01:00"):
        with pytest.raises(ValueError, match="9999"):
            wire.timestamp_ms(later)


def test_an_end_without_content_is_a_reason_until_a_version_brings_the_text():
    read = back(folded(event("start", None, at_s=0), event("stop", None, at_s=1)))
    assert (read.exact, read.may_lack_all) == (False, True)
    fold(read, decode(create(2, "a")))
    assert (text_of(read), read.exact) == ("a", True)
    begun = back(folded(event("start", None, at_s=0)))
    fold(begun, event("stop", None, at_s=1))
    assert not begun.exact
    assert back(folded(start(), stop(1))).exact
