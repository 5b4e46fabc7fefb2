"""Names and positions."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core.positions import (
    Cursor,
    at_or_before,
    channel_serial,
    check_channel,
    check_conversation_id,
    check_message_id,
    check_until,
    decode_cursor,
    encode_cursor,
    has_control,
    insertion_position,
    is_name,
    serial_time_ms,
)
from rehydrate.errors import BadParameter

X = "01767225600000-000@series"


@pytest.mark.parametrize(
    "good", ["a", "conv-42", "日本語", "a:b", "a[b", " ", "x" * 128, "😀" * 128]
)
def test_a_conversation_id_that_can_name_a_channel_is_returned(good):
    assert check_conversation_id(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", ".", "..", "x" * 129, "a*", "*", "[a", ":a", "a\n", "a\x00", "\x7f", "a\x85", "a\ud83d"],
)
def test_a_conversation_id_outside_the_syntax_names_its_parameter(bad):
    with pytest.raises(BadParameter) as caught:
        check_conversation_id(bad)
    assert caught.value.parameter == "conversation_id"


@pytest.mark.parametrize("good", [None, X, f"{X}:000", "x" * 256])
def test_an_attach_point_is_any_short_text(good):
    assert check_until(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 257, "a\tb", "\x9f", "\udc00"])
def test_an_until_outside_the_syntax_names_its_parameter(bad):
    with pytest.raises(BadParameter) as caught:
        check_until(bad)
    assert caught.value.parameter == "until"


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "x" * 257, "a\nb", "a\x00", "\ud83d", 5, None, b"x"]
)
def test_a_value_that_is_not_a_name_is_refused(bad):
    assert not is_name(bad)
    with pytest.raises(BadParameter) as caught:
        check_message_id(bad, "response_id")
    assert caught.value.parameter == "response_id"


@pytest.mark.parametrize("good", ["r", "...", ".a", "x" * 256, "応答 1", "a*b", ":["])
def test_a_message_may_have_any_short_name(good):
    assert is_name(good)
    assert check_message_id(good) == good


@pytest.mark.parametrize("control", ["\x00", "\x1f", "\x7f", "\x80", "\x9f"])
def test_control_characters_are_seen(control):
    assert has_control(f"a{control}b")


def test_other_characters_are_not_control_characters():
    assert not has_control("a b~\xa0\u2028é😀")


def test_the_serial_of_a_message_begins_with_the_serial_of_its_publish():
    assert channel_serial(f"{X}:001") == X
    assert channel_serial(X) == X


def test_every_message_of_the_publish_at_the_attach_point_is_at_or_before_it():
    assert f"{X}:000" > X
    assert at_or_before(f"{X}:000", X)
    assert at_or_before(f"{X}:001", X)
    assert at_or_before(X, f"{X}:000")


def test_a_later_publish_is_not_at_or_before_the_attach_point():
    assert not at_or_before("01767225600000-001@series:000", X)
    assert at_or_before("01767225599999-009@series:004", X)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X, 1_767_225_600_000),
        (f"{X}:000", 1_767_225_600_000),
        ("nonsense", None),
        ("", None),
        ("123", None),
        ("１７６７２２５６００００００", None),
    ],
)
def test_the_time_of_a_serial_is_its_first_digits(text, expected):
    assert serial_time_ms(text) == expected


def test_insertions_take_their_place_among_serials():
    before, after = "01767225600000-000@s:000", "01767225600002-000@s:000"
    first, second = (
        insertion_position(1_767_225_600_001, 0),
        insertion_position(1_767_225_600_001, 1),
    )
    assert before < first < second < after


@given(st.builds(Cursor, st.text(), st.text()))
def test_a_cursor_is_read_as_it_was_written_or_refused(cursor):
    text = encode_cursor(cursor)
    assert text.isascii()
    try:
        assert decode_cursor(text) == cursor
    except BadParameter:
        assert "\0" in cursor.position + cursor.message_id


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x",
        "%%%",
        "日本",
        "bnVsbA",
        "WzEsMl0",
        "WyJhIl0",
        "WyJhIiwiYiIsImMiXQ",
        "ImFiIg",
        "\ud800",
    ],
)
def test_text_that_is_not_a_cursor_names_its_parameter(bad):
    with pytest.raises(BadParameter) as caught:
        decode_cursor(bad, "after")
    assert caught.value.parameter == "after"


@pytest.mark.parametrize("held", [b'["a\\u0000","b"]', b'["a","\\ud83d"]'])
def test_a_cursor_with_text_that_the_store_cannot_hold_is_refused(held):
    with pytest.raises(BadParameter):
        decode_cursor(base64.urlsafe_b64encode(held).decode())


@pytest.mark.parametrize("good", ["ai:c", "a*", "日本語", "x" * 2048])
def test_a_channel_that_ably_accepts_is_returned(good):
    assert check_channel(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 2049, "[meta]x", ":a", "a:*:b", "a\n", "a\ud83d"])
def test_a_channel_that_ably_does_not_accept_is_refused(bad):
    with pytest.raises(BadParameter) as raised:
        check_channel(bad)
    assert raised.value.parameter == "channel"
