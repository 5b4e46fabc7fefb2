"""What of the data of a channel message is read as text, and what counts as unreadable."""

from __future__ import annotations

import pytest

from rehydrate.core.event import UNDECODED
from rehydrate.core.text.readable import carries_text, read_prompt, read_text, text_in

TEXT = [
    ("a", "a"),
    ("", ""),
    (b"a\xc3\xa4", "aä"),
    (bytearray(b"a"), "a"),
    ({"text": "a", "x": 1}, "a"),
]
NOT_TEXT = [5, True, b"\xff", ["a"], {}, {"text": 5}, {"text": b"a"}, {"delta": "a"}, UNDECODED]


@pytest.mark.parametrize(("data", "text"), TEXT, ids=str)
def test_what_means_one_text_is_read(data, text):
    assert text_in(data) == text
    assert read_text(data) == (text, 0)


@pytest.mark.parametrize("data", NOT_TEXT, ids=str)
def test_what_does_not_is_unreadable(data):
    assert text_in(data) is None
    assert read_text(data) == ("", 1)


def test_no_data_is_no_content():
    assert text_in(None) is None
    assert read_text(None) == ("", 0)
    assert read_prompt(None) is None


@pytest.mark.parametrize(
    ("data", "text", "unreadable"),
    [
        ("hi", "hi", 0),
        ({"promptId": "p", "text": "hi"}, "hi", 0),
        ({"parts": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]}, "ab", 0),
        ({"parts": ["a", {"text": "b"}]}, "ab", 0),
        ([{"type": "text", "text": "a"}], "a", 0),
        ({"parts": [{"type": "text", "text": "a"}, {"type": "file", "text": "b"}]}, "a", 1),
        ({"parts": [{"type": "text"}, 5, b"a"]}, "", 1),
        ({"text": "a", "parts": []}, "a", 0),
        ({"text": "a", "parts": [{"type": "text", "text": "a"}]}, "a", 0),
        ({"text": "a", "parts": [{"type": "file"}]}, "a", 1),
        ({"text": "a", "parts": "a"}, "a", 1),
        ({"text": 5, "parts": ["a"]}, "a", 0),
        ({"parts": []}, "", 1),
        ({}, "", 1),
        ([], "", 1),
        (UNDECODED, "", 1),
    ],
    ids=str,
)
def test_a_prompt_is_text_or_parts(data, text, unreadable):
    assert read_prompt(data) == (text, unreadable)


@pytest.mark.parametrize(
    ("data", "carries"),
    [("a", True), ({"text": "a"}, True), (b"\xff", True), (UNDECODED, True), (b"", True),
     ("", False), (None, False), ({}, False), ([1], False), (5, False)],
    ids=str,
)  # fmt: skip
def test_text_and_what_may_be_text_is_told_from_other_data(data, carries):
    assert carries_text(data) is carries
