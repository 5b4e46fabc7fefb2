"""Facts that differ, and how the ids of the margin changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core.fold import MessageState, Owner
from rehydrate.core.json import dump
from rehydrate.postgres import attributes as facts

ids = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), max_size=6)


@given(before=ids, now=ids)
def test_ids_after_a_change_are_the_ids_and_in_their_order(before: dict, now: dict) -> None:
    gone, came = facts.ids_since(before, now)
    came = facts.parsed(dump(came))
    after = facts.ids_after(dict(before), gone, came)
    assert list(after.items()) == list(now.items())


def test_ids_that_went_in_front_and_came_behind_are_told_shortly() -> None:
    before, now = {"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 3, "d": 4}
    assert facts.ids_since(before, now) == (1, {"d": 4})


def test_an_id_that_went_and_came_again_has_its_new_time() -> None:
    assert facts.ids_since({"a": 1}, {"a": 9, "b": 9}) == (None, {"a": 9, "b": 9})


def test_ids_that_changed_their_order_are_told_whole() -> None:
    assert facts.ids_since({"a": 1, "b": 2}, {"b": 2, "a": 1}) == (None, {"b": 2, "a": 1})


def test_only_what_differs_is_told() -> None:
    state = MessageState("m")
    fresh = facts.values(MessageState("m"))
    assert facts.differing(state, fresh) == {}
    state.seq, state.owner, state.usage = 3, Owner(None), {"a": "\ud83d\0"}
    told = facts.differing(state, fresh)
    assert told == {"seq": 3, "owner": (None,), "usage": {"a": "\ud83d\0"}}
    other = MessageState("m")
    facts.apply(other, facts.parsed(dump(told)))
    assert facts.values(other) == facts.values(state)


def test_values_do_not_change_with_the_state() -> None:
    state = MessageState("m")
    before = facts.values(state)
    state.recent["id"] = 1
    assert facts.differing(state, before) == {"recent": {"id": 1}}


def test_a_state_has_no_fact_that_is_not_kept() -> None:
    kept_elsewhere = {"id", "position", "runs", "tail", "versioned", "changed", "budget"}
    assert set(MessageState.__slots__) == set(facts.NAMES) | kept_elsewhere
