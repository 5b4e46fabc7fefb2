"""Parts as other publishers send them."""

from __future__ import annotations

import math

import pytest

from rehydrate.core.text.parts import clean_parts

CALL = {
    "type": "tool_call",
    "tool_call_id": "c",
    "name": "find",
    "args": {"q": [1]},
    "result": "3",
    "status": "completed",
}


def test_parts_keep_what_the_wire_form_has_and_lose_the_rest():
    parts = [
        {"type": "text", "text": "a", "part": "p", "colour": "red"},
        {"type": "refusal", "text": "", "part": 3},
        {"type": "reasoning", "text": "hm"},
        CALL | {"colour": "red"},
    ]
    assert clean_parts(parts) == [
        {"type": "text", "text": "a", "part": "p"},
        {"type": "refusal", "text": ""},
        {"type": "reasoning", "text": "hm"},
        CALL,
    ]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("completed", "completed"),
        ("failed", "failed"),
        ("in_progress", "in_progress"),
        ("incomplete", "in_progress"),  # in a message that has ended
        (["failed"], "in_progress"),
    ],
)
def test_a_status_other_than_an_end_is_in_progress(said, kept):
    assert clean_parts([CALL | {"status": said}]) == [CALL | {"status": kept}]


def test_a_call_with_only_an_id_has_empty_fields():
    assert clean_parts(
        [{"type": "tool_call", "tool_call_id": "c", "name": 4, "status": "odd"}]
    ) == [
        {
            "type": "tool_call",
            "tool_call_id": "c",
            "name": None,
            "args": "",
            "result": None,
            "status": "in_progress",
        }
    ]


@pytest.mark.parametrize(
    "parts",
    [
        None,
        [],
        {},
        "text",
        5,
        [None],
        ["a"],
        [{}],
        [{"type": "text"}],
        [{"type": "text", "text": 5}],
        [{"type": ["text"], "text": "a"}],
        [{"type": "image", "text": "a"}],
        [{"type": "tool_call"}],
        [{"type": "tool_call", "tool_call_id": 5}],
        [CALL | {"args": math.nan}],
        [CALL | {"result": b"\x00"}],
        [{"type": "text", "text": "a"}, {"type": "image"}],
    ],
)
def test_one_invalid_part_makes_the_list_invalid(parts):
    assert clean_parts(parts) is None
