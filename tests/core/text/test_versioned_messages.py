"""Versioned messages: the greatest version of each counts, whole.

A delta is whole only within the append chain of one attachment.
"""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from core.builders import BEGAN_MS, event, published, timeline_of, token
from core.growing import append, at, create, full
from rehydrate.core import wire
from rehydrate.core.codecs import decode
from rehydrate.core.event import Event, Version
from rehydrate.core.fold import MessageState, Outcome, fold
from rehydrate.core.text import versioned_messages as cells
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import Timeline
from rehydrate.core.window import read_again_from


def text_of(timeline, id_="r"):
    return wire.message(timeline.messages[id_])["text"]


def cell(kind, created_s, version_s, text=None, *, attempt=None, **fields):
    """Return a version of a channel message of response ``r``."""
    made = event(kind, text=text, at_s=created_s, **fields)
    step = ("s", None if attempt is None else at(attempt))
    version = Version(at(version_s), False, False, *(step if attempt is not None else (None, None)))
    return made._replace(version=version)


def folded(*events):
    state = MessageState("r")
    for each in events:
        fold(state, each)
    return state


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_greatest_version_counts_in_whatever_order_they_come(order):
    versions = [create(1, "a"), full(1, 2, "ab"), full(1, 3, "abc")]
    timeline = timeline_of(*[versions[index] for index in order])
    assert text_of(timeline) == "abc"
    assert timeline.messages["r"].parts()[0]["through"] == {"serial": at(1), "version": at(3)}


def test_a_delta_is_never_added_to_text_that_came_from_elsewhere():
    timeline = timeline_of(full(1, 2, "ab"))
    assert timeline.apply(decode(append(1, 3, "bc"))).outcome is Outcome.OLD
    assert text_of(timeline) == "ab"


def test_several_channel_messages_are_parts_in_the_order_of_their_creation():
    state = folded(cell("token", 3, 9, "said"), cell("reasoning", 2, 2, "thought"))
    assert [(part["type"], part["text"]) for part in state.parts()] == [
        ("reasoning", "thought"),
        ("text", "said"),
    ]
    assert [part["through"]["version"] for part in state.parts()] == [at(2), at(9)]


def test_an_update_may_replace_the_content():
    assert text_of(timeline_of(full(1, 2, "ab"), full(1, 3, "X"))) == "X"


def test_a_response_ends_with_its_last_version_at_the_time_of_that_version():
    state = timeline_of(full(1, 5, "ab", done=True)).messages["r"]
    assert (state.status, state.finished_ms) == ("completed", BEGAN_MS + 5_000)


def test_a_version_published_before_the_end_and_visible_after_it_is_not_lost():
    ended = timeline_of(
        full(1, 2, "ab"), published("response-end", at_s=4, responseId="r"), full(1, 3, "abc")
    )
    assert (text_of(ended), ended.messages["r"].status) == ("abc", "completed")


def test_another_client_cannot_change_it():
    assert text_of(timeline_of(create(1, "a"), full(1, 2, "evil", client_id="mallory"))) == "a"


def test_a_version_that_dropped_its_headers_belongs_where_the_message_began():
    timeline = timeline_of(create(1, "a", rid="mine"), full(1, 2, "ab", rid=None))
    assert (list(timeline.messages), text_of(timeline, "mine")) == (["mine"], "ab")


def test_no_version_is_folded_after_a_repair():
    repair = published("response-complete", "ABC", at_s=3, responseId="r")
    timeline = timeline_of(full(1, 2, "ab"), repair, full(1, 4, "abc"))
    assert text_of(timeline) == "ABC"
    again = Timeline([wire.state_of(wire.message(timeline.messages["r"]))])
    again.apply(decode(full(1, 4, "abc")))
    assert text_of(again) == "ABC"


def test_a_later_attempt_at_a_step_replaces_an_earlier_one_and_its_late_versions():
    first = cell("token", 2, 4, "one", attempt=1)
    second = cell("token", 6, 7, "two", attempt=5)
    begun = cell("void", 5, 5, attempt=5)
    for order in permutations([first, second, begun]):
        assert [part["text"] for part in folded(*order).parts()] == ["two"]
    assert folded(first, begun).parts() == []
    again = wire.state_of(json.loads(wire.encode(folded(first, begun))))
    assert fold(again, first._replace(version=first.version._replace(serial=at(8))))
    assert again.parts() == []


def test_a_tool_call_streams_its_arguments_and_gets_its_result():
    call = {"tool_call_id": "t", "name": "add", "value": ""}
    state = folded(
        cell("tool_call", 2, 2, "", **call),
        cell("tool_call", 2, 4, '{"a":1}', **call),
        cell("tool_result", 5, 5, tool_call_id="t", value=[2]),
    )
    (part,) = state.parts()
    assert (part["name"], part["args"], part["result"]) == ("add", '{"a":1}', [2])
    assert part["status"] == "completed"
    assert part["result_through"] == {"serial": at(5), "version": at(5)}


@pytest.mark.parametrize("result", [{"error": "no"}, None])
def test_a_tool_that_failed_ends_its_call_and_not_the_response(result):
    failed = cell("tool_result", 5, 5, tool_call_id="t", value=result, status="failed")
    state = folded(cell("tool_call", 2, 2, "{}", tool_call_id="t", name="add", value=""), failed)
    assert (state.status, state.parts()[0]["status"]) == ("in_progress", "failed")
    assert wire.state_of(json.loads(wire.encode(state))).parts() == state.parts()


def test_folding_continues_from_the_wire_form():
    call = {"tool_call_id": "t", "name": "add", "value": ""}
    state = folded(
        cell("reasoning", 1, 3, "hm"),
        cell("tool_call", 2, 4, '{"a"', **call),
        cell("tool_result", 5, 5, tool_call_id="t", value=None),
        cell("token", 6, 7, "so"),
    )
    again = wire.state_of(json.loads(wire.encode(state)))
    assert wire.message(again) == wire.message(state)
    assert fold(again, cell("token", 6, 7, "so")) is Outcome.OLD
    assert fold(again, cell("token", 6, 8, "so!")) is Outcome.FOLDED
    assert fold(again, cell("tool_call", 2, 9, '{"a":1}', **call)) is Outcome.FOLDED
    assert [part.get("text", part.get("args")) for part in again.parts()] == [
        "hm",
        '{"a":1}',
        "so!",
    ]


def test_a_prompt_of_several_channel_messages_is_all_of_them():
    prompt = [cell("prompt", 1, 1, "look: "), cell("prompt", 2, 2, "this")]
    state = MessageState("r", "user")
    assert [fold(state, each) for each in prompt] == [Outcome.FOLDED] * 2
    body = wire.message(state)
    assert (body["text"], body["status"]) == ("look: this", "completed")
    assert wire.message(wire.state_of(body)) == body


def test_memory_has_a_bound(monkeypatch):
    monkeypatch.setattr(cells, "MAX_VERSIONED", 2)
    state = MessageState("r")
    outcomes = [fold(state, cell("token", s, s, "x")) for s in (1, 2, 3)]
    assert outcomes == [Outcome.FOLDED, Outcome.FOLDED, Outcome.REFUSED]
    assert fold(state, cell("token", 1, 4, "xy")) is Outcome.FOLDED


def test_its_timings_are_those_of_the_versions_that_were_seen():
    state = timeline_of(create(1, "a"), full(1, 3, "abc"), full(1, 4, "X")).messages["r"]
    (run,) = state.all_runs()
    assert [(t.length, t.at_ms - BEGAN_MS) for t in run.timings.entries] == [(1, 4_000)]
    state = timeline_of(create(1, "a"), full(1, 3, "abc")).messages["r"]
    (run,) = state.all_runs()
    assert [(t.length, t.at_ms - BEGAN_MS) for t in run.timings.entries] == [(1, 1_000), (2, 3_000)]


def read_again(*messages, now_s):
    states = timeline_of(*messages).messages.values()
    place = read_again_from(states, BEGAN_MS + now_s * 1000)
    return None if place is None else place.serial


def test_history_is_read_again_from_the_oldest_message_that_may_still_grow():
    later = create(5, "x", rid="s")
    assert read_again(create(1, "a"), later, now_s=60) == at(1)
    assert read_again(full(1, 2, "a", done=True), later, now_s=60) == at(5)
    ended = full(1, 58, "a", done=True)
    assert read_again(ended, later, now_s=60) == at(1)
    assert read_again(full(1, 2, "a", done=True), now_s=60) is None
    assert read_again(published("token", "a", responseId="r", seq=1), now_s=60) is None


def test_an_event_without_a_version_is_not_folded_here():
    assert not cells.fold_version({}, {}, event("token", 1, "a"))


def test_the_last_version_is_marked_in_the_wire_form():
    header = cells.VersionedHeader(at(1), -2, at(2), BEGAN_MS, is_last=True, step="s", attempt="t")
    assert cells.VersionedMessage(header).through == {
        "serial": at(1),
        "version": at(2),
        "last": True,
        "step": "s",
        "attempt": "t",
    }


def told(*messages):
    """Return the whole events that one attachment has after each of *messages*."""
    known = AppendChains()
    return [known.whole(decode(message)) for message in messages]


def test_deltas_grow_what_the_attachment_was_shown_first():
    events = told(create(1, "a"), append(1, 2, "b"), append(1, 4, "cd"))
    assert [event.text for event in events] == ["a", "ab", "abcd"]
    assert [event.version.serial for event in events] == [at(1), at(2), at(4)]
    assert not any(event.version.is_delta for event in events)


def test_a_delta_without_its_base_is_not_an_event():
    assert told(append(1, 2, "b")) == [None]


def test_an_update_replaces_the_append_chain():
    assert [e.text for e in told(full(1, 2, "ab"), full(1, 3, "X"), append(1, 4, "y"))] == [
        "ab",
        "X",
        "Xy",
    ]


def test_a_repeated_delivery_adds_nothing():
    events = told(full(1, 3, "abc"), append(1, 3, "c"), append(1, 2, "b"), append(1, 4, "d"))
    assert [event.text for event in events] == ["abc", "abc", "abc", "abcd"]


def test_an_append_that_drops_name_and_headers_belongs_where_the_message_began():
    bare = append(1, 2, "b", name=None, rid=None)
    (first, then) = told(create(1, "a", rid="mine"), bare)
    assert (then.message_id, then.text, then.kind) == ("mine", "ab", first.kind)
    (_, replaced) = told(create(1, "a", rid="mine"), full(1, 2, "X", rid=None))
    assert (replaced.message_id, replaced.text) == ("mine", "X")


def test_append_chains_of_several_messages_are_separate():
    events = told(create(1, "a"), create(2, "x"), append(1, 3, "b"), append(2, 4, "y"))
    assert [event.text for event in events] == ["a", "x", "ab", "xy"]


def test_events_of_messages_that_do_not_grow_pass():
    event = token(1, "a")
    assert AppendChains().whole(event) is event


@pytest.mark.parametrize(("most", "bound"), [(2, "MAX_CHAINS"), (5, "MAX_CHAINED_CHARACTERS")])
def test_an_evicted_append_chain_needs_a_new_attach(monkeypatch, most, bound):
    monkeypatch.setattr(cells, bound, most)
    events = told(
        create(1, "aa"), create(2, "bb"), create(3, "cc"), append(3, 4, "d"), append(1, 5, "e")
    )
    assert [event and event.text for event in events] == ["aa", "bb", "cc", "ccd", None]


def test_a_delta_of_a_tool_call_keeps_the_name_of_its_base():
    base = Event.tool_call("r", "c", name="add", text='{"a"', serial=at(1), version=Version(at(1)))
    delta = Event.tool_call(
        "r", "c", text=":1}", serial=at(1), version=Version(at(2), is_delta=True)
    )
    known = AppendChains()
    known.whole(base)
    whole = known.whole(delta)
    assert (whole.name, whole.text, whole.version) == ("add", '{"a":1}', Version(at(2)))


def test_a_full_version_of_another_kind_replaces_its_base():
    known = AppendChains()
    known.whole(Event.token("r", "a", serial=at(1), version=Version(at(1))))
    full_version = Event.void("r", serial=at(1), version=Version(at(2)))
    assert known.whole(full_version) == full_version


def test_a_delta_of_another_kind_has_only_the_fields_of_its_kind():
    known = AppendChains()
    known.whole(Event.tool_call("r", "c", serial=at(1), version=Version(at(1))))
    delta = Event.token("r", "a", serial=at(1), version=Version(at(2), is_delta=True))
    assert known.whole(delta) == delta._replace(version=Version(at(2)))
    void = AppendChains()
    void.whole(Event.void("r", serial=at(1), version=Version(at(1))))
    bare = delta._replace(message_id=None, text="late")
    assert void.whole(bare) == Event.void("r", serial=at(1), version=Version(at(2)))


def test_an_unreadable_version_is_an_empty_part_until_a_later_one_can_be_read():
    for order in permutations([create(1, "a"), full(1, 2, b"\xff"), full(1, 3, "abc")]):
        state = timeline_of(*order).messages["r"]
        assert (text_of(timeline_of(*order)), state.unreadable, state.exact) == ("abc", 0, True)
    state = timeline_of(create(1, "a"), full(1, 2, b"\xff")).messages["r"]
    assert [part["text"] for part in state.parts()] == [""]
    assert (state.unreadable, state.exact) == (1, False)
    read = wire.state_of(wire.message(state))
    assert (read.parts(), read.unreadable, read.exact) == (state.parts(), 1, False)


def test_appends_to_what_cannot_be_read_and_appends_that_cannot_be_read_are_unreadable():
    for first, second in ((b"\xff", "b"), ("a", b"\xff")):
        chains = AppendChains()
        chains.whole(decode(create(1, first)))
        for at_s in (2, 3):
            whole = chains.whole(decode(append(1, at_s, second)))
            assert (whole.text, whole.unreadable) == ("", 1)
    again = chains.whole(decode(full(1, 4, "abc")))
    assert (again.text, again.unreadable) == ("abc", 0)
