"""The common part of the interpreters: the tally of deltas, and the count of unknown types."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.providers.failures import StreamUnreadable
from rehydrate.providers.interpreting import (
    UNKNOWN_TYPES_MAX,
    RawEvent,
    Tally,
    dict_of,
    dicts_in,
    index_of,
    plain,
    str_or,
    text_of,
)
from rehydrate.providers.openai_responses import ResponsesStream

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


async def test_unknown_types_are_counted_up_to_a_limit():
    events = [{"type": f"response.new_{n}"} for n in range(UNKNOWN_TYPES_MAX + 5)]
    stream = ResponsesStream([*events, events[0]])
    assert [event.type async for event in stream][-1] == "error"
    assert len(stream.unknown) == UNKNOWN_TYPES_MAX + 1
    assert stream.unknown["(others)"] == 5
    assert stream.unknown["response.new_0"] == 2


@pytest.mark.parametrize(
    ("read", "fields"),
    [
        (text_of, {"at": 5}),
        (text_of, {}),
        (index_of, {"at": -1}),
        (index_of, {"at": True}),
        (dict_of, {"at": []}),
    ],
)
def test_a_field_of_the_wrong_type_is_rejected_by_name(read, fields):
    with pytest.raises(StreamUnreadable, match=r"some\.event has no .* 'at'"):
        read(RawEvent("some.event", None, fields), "at")


def test_optional_fields_may_be_absent():
    assert dicts_in(None) == dicts_in("x") == []
    assert dicts_in([{"a": 1}, "x"]) == [{"a": 1}]
    assert (str_or("", "-"), str_or(5, "-"), str_or("x", "-")) == ("-", "-", "x")
    assert plain({"a": 1}) == {"a": 1}
