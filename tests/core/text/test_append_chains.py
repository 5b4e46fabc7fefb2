"""Append chains: deltas are whole only within one attachment."""

from __future__ import annotations

import pytest

from core.growing import append, at, create, full
from core.saying import token
from rehydrate.core.codecs import decode
from rehydrate.core.event import Event, Version
from rehydrate.core.text import append_chains as chains
from rehydrate.core.text.append_chains import AppendChains


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


@pytest.mark.parametrize(("most", "bound"), [(2, "MAX_CHAINS"), (5, "MAX_CHARACTERS")])
def test_an_evicted_append_chain_needs_a_new_attach(monkeypatch, most, bound):
    monkeypatch.setattr(chains, bound, most)
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
