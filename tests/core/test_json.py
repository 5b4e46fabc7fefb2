"""JSON as the service writes it."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from rehydrate.core.json import MAX_LEVELS, dump, is_json, load, sent_bytes


def nested(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_json_is_compact_and_in_utf8():
    assert dump({"a": ["語", 1, None]}) == '{"a":["語",1,null]}'.encode()


def test_halves_of_a_pair_are_escaped_and_meet_again():
    assert json.loads(dump("\ud83d" + "\ude00")) == "😀"
    assert json.loads(dump("語\ud83d")) == "語\ud83d"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1.5,
        10**30,
        "",
        "\x00\ud83d",
        [],
        {},
        {"a": [1, {"b": None}]},
        nested(MAX_LEVELS),
    ],
)
def test_json_serializable_values_are_json(value):
    assert is_json(value)
    assert load(dump(value)) == value


@pytest.mark.parametrize("value", [2**63, 2**64, -(2**64), 20_000_000_000_000_000_001, 10**300])
def test_integers_of_any_size_are_read_as_they_were_written(value):
    assert load(dump({"n": [value]})) == {"n": [value]}
    assert load(f" {value} ") == value


@pytest.mark.parametrize("number", [1.5, -0.0, 1e300, 5e-324, 2.0**70])
def test_floats_stay_floats(number):
    assert repr(load(dump(number))) == repr(number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("text", ["", "\ud83d"])
def test_numbers_that_are_not_finite_are_not_written(number, text):
    with pytest.raises(ValueError, match="JSON"):
        dump({text: [number]})


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b"[Infinity]",
        "-Infinity",
        b"1e999",
        "-1e999",
        b"",
        b"{",
        b"\xff",
        b"[" * 200_000,
        "1" * 5_000,
    ],
    ids=lambda body: body[:9],
)
def test_what_is_not_json_is_not_read(body):
    with pytest.raises(ValueError):  # noqa: PT011 - of the parser or of ours
        load(body)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        b"x",
        bytearray(b"x"),
        {1: 2},
        {None: 1},
        {"a": b"x"},
        [{"a": [math.nan]}],
        ("a",),
        {"a"},
        object(),
        datetime.now(UTC),
        nested(MAX_LEVELS + 1),
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_not_json(value):
    assert not is_json(value)


def test_the_length_of_data_is_in_bytes_of_utf_8():
    assert sent_bytes("a") == 3
    assert sent_bytes(["語"]) == 7
