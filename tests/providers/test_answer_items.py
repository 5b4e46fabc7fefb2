"""The tally of deltas, and calls whose arguments are complete."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.providers import answer_items
from rehydrate.providers.answer_items import BEGINS, CONTRADICTS, EXACT, Call, Tally

TEXT = st.text(alphabet=st.characters(), max_size=12)  # including lone surrogates


@given(st.lists(TEXT, max_size=6), TEXT)
def test_the_rest_of_a_text_is_the_part_its_deltas_lack(deltas, rest):
    tally = Tally()
    for text in deltas:
        tally.add(text)
    assert tally.rest("".join(deltas) + rest) == rest


@given(TEXT.filter(bool), TEXT)
def test_another_text_has_no_rest(said, other):
    tally = Tally()
    tally.add(said)
    expected = other[len(said) :] if other.startswith(said) else None
    assert tally.rest(other) == expected


def test_a_part_joined_late_has_no_rest():
    assert Tally(whole=False).rest("anything") == ""


@given(st.lists(TEXT, max_size=6), TEXT)
def test_a_repetition_adds_nothing(deltas, more):
    tally, text = Tally(), "".join(deltas)
    for delta in deltas:
        tally.add(delta)
    tally.skipped = tally.length
    assert "".join(tally.add(character) for character in text + more) == more
    assert tally.text() == text + more


@pytest.mark.parametrize(
    ("deltas", "done", "full", "expected"),
    [
        (["a", "b"], False, "ab", EXACT),
        (["a"], False, "ab", BEGINS),
        (["a"], True, "ab", CONTRADICTS),
        ([], False, "ab", BEGINS),
        ([], True, "", BEGINS),
        (["b"], False, "ab", CONTRADICTS),
    ],
)
def test_a_whole_text_equals_continues_or_contradicts_the_deltas(deltas, done, full, expected):
    tally = Tally()
    for delta in deltas:
        tally.add(delta)
    tally.done = done
    assert tally.compared(full) == expected


def test_a_long_text_is_compared_but_not_kept(monkeypatch):
    monkeypatch.setattr(answer_items, "KEPT_CHARACTERS_MAX", 3)
    tally = Tally()
    for delta in ("ab", "cd"):
        tally.add(delta)
    assert (tally.text(), tally.rest("abcde")) == (None, "e")


@pytest.mark.parametrize(
    ("streamed", "whole", "complete"),
    [
        ("", None, False),
        ("{", None, False),
        ("[1]", None, False),
        ("{}", None, True),
        ("{", "", True),
    ],
)
def test_a_call_is_complete_if_its_arguments_were_sent_whole_or_are_an_object(
    streamed, whole, complete
):
    call = Call("c", "c", "sum", "function_call")
    call.tally.add(streamed)
    call.args = whole
    assert call.complete == complete
