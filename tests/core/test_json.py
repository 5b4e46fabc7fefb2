"""JSON as the service writes it."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from rehydrate.core.json import MAX_LEVELS, dump, is_json, sent_bytes


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
    json.loads(dump(value))


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


def test_the_length_of_data_counts_what_the_sdk_escapes():
    assert sent_bytes("a") == 3
    assert sent_bytes("語") == 8
