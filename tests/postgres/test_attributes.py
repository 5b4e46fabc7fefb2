"""Differences of attributes, and changes of the ids of the overlap margin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core.fold import MessageState, Owner
from rehydrate.core.json import dump, load
from rehydrate.postgres import attributes

ids = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), max_size=6)


@given(before=ids, now=ids)
def test_applying_a_recent_change_restores_the_ids_in_order(before: dict, now: dict) -> None:
    dropped, appended = attributes.recent_change(before, now)
    appended = load(dump(appended))
    after = attributes.apply_recent_change(dict(before), dropped, appended)
    assert list(after.items()) == list(now.items())


def test_dropped_and_appended_ids_are_encoded_as_a_difference() -> None:
    before, now = {"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 3, "d": 4}
    assert attributes.recent_change(before, now) == (1, {"d": 4})


def test_an_id_that_left_and_came_back_has_its_new_time() -> None:
    changed = {"a": 9, "b": 9}
    assert attributes.recent_change({"a": 1}, changed) == (None, changed)


def test_reordered_ids_are_encoded_completely() -> None:
    assert attributes.recent_change({"a": 1, "b": 2}, {"b": 2, "a": 1}) == (None, {"b": 2, "a": 1})


def test_difference_contains_only_changed_attributes() -> None:
    state = MessageState("m")
    fresh = attributes.values(MessageState("m"))
    assert attributes.difference(state, fresh) == {}
    state.seq, state.owner, state.usage = 3, Owner(None), {"a": "\ud83d\0"}
    changed = attributes.difference(state, fresh)
    assert changed == {"seq": 3, "owner": (None,), "usage": {"a": "\ud83d\0"}}
    other = MessageState("m")
    attributes.apply(other, load(dump(changed)))
    assert attributes.values(other) == attributes.values(state)


def test_values_do_not_change_with_the_state() -> None:
    state = MessageState("m")
    before = attributes.values(state)
    state.recent["id"] = 1
    assert attributes.difference(state, before) == {"recent": {"id": 1}}


def test_every_slot_of_a_state_is_stored() -> None:
    stored_elsewhere = {"id", "position", "runs", "tail", "versioned", "changed", "budget"}
    assert set(MessageState.__slots__) == set(attributes.NAMES) | stored_elsewhere
