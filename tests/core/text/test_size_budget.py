"""The limits of one response."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.growing import append, at, create, full
from core.saying import event, folded, start, stop, text_of, token
from rehydrate.core.codecs import decode
from rehydrate.core.fold import MessageState, Outcome, fold
from rehydrate.core.text import size_budget as extent
from rehydrate.core.text.size_budget import TOO_LARGE, SizeBudget, adds, check_parts, measured
from rehydrate.errors import TooLarge

MORE = [
    event("token", 0, "abc"),
    event("token", 0, "abc", part="p"),
    event("token", 0, "def", part="p"),
    event("reasoning", 0, ""),
    event("void", 0),
    event("tool_call", 0, tool_call_id="c", name="find", value=""),
    event("tool_call", 0, tool_call_id="d", name="find", value={"q": [1]}),
    event("tool_args", 0, '{"q"', tool_call_id="c"),
    event("tool_result", 0, tool_call_id="c", value={"a": "语"}),
]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(extent, "FOLDED_CHARACTERS", 6)


@given(st.lists(st.sampled_from(MORE), max_size=20))
def test_what_is_counted_on_the_way_is_never_less_than_what_is_there(events):
    state = folded(*[each._replace(seq=seq, id=f"i{seq}") for seq, each in enumerate(events, 1)])
    there = measured(state.all_runs())
    counted = state.budget or SizeBudget()
    assert counted.characters >= there.characters >= len(text_of(state))
    assert counted.events == there.events == len(events)
    assert counted.steps >= there.steps


def test_an_event_that_does_not_fit_ends_the_response_before_it_with_an_error(small):
    state = folded(start(), token(1, "abc"), token(2, "def"))
    assert fold(state, token(3, "g")) is Outcome.FOLDED
    assert (text_of(state), state.status, state.error) == ("abcdef", "incomplete", TOO_LARGE)
    assert (state.through.seq, state.gaps()) == (3, [])
    assert fold(state, token(4, "h")) is Outcome.OLD
    assert fold(state, stop(5)) is Outcome.OLD
    assert state.status == "incomplete"


def test_a_gap_that_was_declared_is_filled_only_while_there_is_room(small):
    state = folded(start(), token(1, "a"), token(3, "c"), token(5, "efghi"))
    assert (state.status, state.gaps()) == ("incomplete", [(2, 2), (4, 4)])
    assert fold(state, token(2, "b")) is Outcome.FOLDED
    assert fold(state, token(4, "much more")) is Outcome.REFUSED
    assert (text_of(state), state.gaps()) == ("abc", [(4, 4)])


def test_text_without_seq_ends_in_the_same_way(small):
    state = folded(*[event("token", text=letter, at_s=s) for s, letter in enumerate("abcdefgh")])
    assert (text_of(state), state.status, state.error) == ("abcdef", "incomplete", TOO_LARGE)


def test_a_versioned_message_ends_it_in_the_same_way(small, monkeypatch):
    monkeypatch.setattr(extent, "FOLDED_CHARACTERS", 6 + len(at(1)))
    shown = [create(1, "abc"), full(1, 2, "abcdef"), full(1, 3, "abcdefg"), create(4, "x")]
    state = folded(*map(decode, shown))
    assert (text_of(state), state.status, state.error) == ("abcdef", "incomplete", TOO_LARGE)
    assert fold(state, decode(full(1, 5, "abc"))) is Outcome.FOLDED  # it may become less
    assert fold(state, decode(full(1, 6, "abcdefgh"))) is Outcome.REFUSED
    assert fold(state, decode(append(1, 7, "i"))) is Outcome.OLD


def test_steps_of_a_grown_response_are_bounded(monkeypatch):
    monkeypatch.setattr("rehydrate.core.text.versioned_messages.MAX_VERSIONED", 2)
    outcomes = [
        fold(state, event("void", at_s=number, version=decode(create(number)).version._replace(
            step=f"s{number}", attempt="a"
        )))
        for state in [MessageState("r")]
        for number in range(1, 5)
    ]  # fmt: skip
    assert outcomes == [Outcome.FOLDED, Outcome.FOLDED, Outcome.REFUSED, Outcome.REFUSED]


@pytest.mark.parametrize(("limit", "most"), [("FOLDED_EVENTS", 3), ("FOLDED_STEPS", 3)])
def test_events_and_changes_between_parts_are_bounded(monkeypatch, limit, most):
    monkeypatch.setattr(extent, limit, most)
    kinds = ["token", "reasoning"] * 4
    numbered = [event(kind, seq, "x") for seq, kind in enumerate(kinds, 1)]
    state = folded(*numbered)
    assert (len(state.parts()), state.status, state.gaps()) == (most, "incomplete", [])


def test_a_repair_makes_room_again(small):
    state = folded(start(), token(1, "abcdef"))
    assert fold(state, event("repair", 1, "ab", id_="x")) is Outcome.FOLDED
    assert fold(state, token(2, "cdef")) is Outcome.FOLDED
    assert (text_of(state), state.status) == ("abcdef", "in_progress")


def test_who_takes_over_begins_with_nothing(small):
    state = folded(token(1, "abcdef"), token(1, "ghijkl", id_="x", gen=2))
    assert (text_of(state), state.status) == ("ghijkl", "in_progress")


letters = st.lists(st.tuples(st.integers(1, 12), st.text("ab", max_size=3)), max_size=25)


@settings(derandomize=True, deadline=None)
@given(letters, st.integers(0, 25))
def test_folding_in_two_parts_equals_folding_the_whole_at_the_limit_too(drawn, cut):
    """Law 1 at the limit: content read back is measured as it was counted."""
    events = [token(seq, text, id_=f"{n}") for n, (seq, text) in enumerate(drawn)]
    before, extent.FOLDED_CHARACTERS = extent.FOLDED_CHARACTERS, 7
    try:
        whole, parts = folded(*events), folded(*events[:cut])
        parts.budget = None  # as after reading it from the store
        folded(*events[max(0, cut - 5) :], state=parts)
    finally:
        extent.FOLDED_CHARACTERS = before
    assert (parts.parts(), parts.status, parts.gaps()) == (
        whole.parts(),
        whole.status,
        whole.gaps(),
    )


def test_imported_parts_have_the_same_limits(monkeypatch):
    call = {"type": "tool_call", "tool_call_id": "c", "name": "f", "args": "{}", "result": [1]}
    check_parts([call, {"type": "text", "text": "x" * 100}])
    with pytest.raises(TooLarge):
        check_parts([{"type": "text", "text": "x" * (extent.MAX_CHARACTERS + 1)}])
    monkeypatch.setattr(extent, "MAX_STEPS", 1)
    with pytest.raises(TooLarge):
        check_parts([call, call])


def test_labels_count():
    assert adds(token(1, "abc", part="p" * 10)) == 13
    assert adds(event("tool_args", 1, "{}", tool_call_id="c" * 10)) == 12
