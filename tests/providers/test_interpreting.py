"""The common part of the interpreters: order, odd and unknown events, and fields."""

from __future__ import annotations

import pytest

from rehydrate.providers.failures import StreamUnreadable
from rehydrate.providers.interpreting import (
    UNKNOWN_TYPES_MAX,
    RawEvent,
    dict_in,
    dict_of,
    dicts_in,
    index_in,
    plain,
    str_or,
    text_of,
)
from rehydrate.providers.openai_responses import ResponsesStream


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
    assert [index_in({"at": value}, "at") for value in (0, 3, -1, True, "1", None)] == [
        0, 3, None, None, None, None,
    ]  # fmt: skip
    assert (dict_in({"a": {"b": 1}}, "a"), dict_in({"a": 5}, "a")) == ({"b": 1}, {})
