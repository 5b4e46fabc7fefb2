from __future__ import annotations

import base64
import json

import pytest
from ably.types.message import Message
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.ably.messages import decoded, from_live, from_rows
from rehydrate.core.event import ChannelMessage

ROW = {
    "id": "c:0:0",
    "name": "token",
    "data": "x",
    "clientId": "ann",
    "timestamp": 1_700_000_000_000,
    "serial": "S:000",
    "action": 0,
    "extras": {"headers": {"seq": 0}},
    "version": {"serial": "V:000", "timestamp": 1_700_000_000_001},
}
MESSAGE = ChannelMessage(
    "token",
    "x",
    "c:0:0",
    "S:000",
    1_700_000_000_000,
    "ann",
    {"headers": {"seq": 0}},
    0,
    "V:000",
)


def b64(data):
    return base64.b64encode(data).decode()


def test_every_field_of_a_row_is_converted():
    assert from_rows([ROW]) == [MESSAGE]
    assert isinstance(from_rows([ROW])[0], ChannelMessage)


def test_missing_fields_of_a_row_are_none():
    assert from_rows([{}]) == [ChannelMessage(None, None, None, None, 0)]
    assert from_rows([{"extras": None, "serial": "S", "version": {}}])[0].version_serial == "S"


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"id": "x", "timestamp": 5, "serial": "S", "data": '{"a":1}', "encoding": "json"},
        {"id": "x", "timestamp": 5, "action": 5, "data": b64(b"\x00\xff"), "encoding": "base64"},
        {"id": "x", "data": "e30=", "encoding": "json/utf-8/base64", "version": {"serial": "V"}},
        {"id": "x", "data": b"\xff", "name": "error", "extras": None},
    ],
)
def test_a_row_and_the_live_message_of_the_sdk_are_equal(row):
    assert from_live(Message.from_encoded(row)) == from_rows([row])[0]


@pytest.mark.parametrize(
    ("data", "encoding", "meant"),
    [
        ('{"a": [1, "語"]}', "json", {"a": [1, "語"]}),
        (b64("語".encode()), "utf-8/base64", "語"),
        (b64(b'{"a":1}'), "json/utf-8/base64", {"a": 1}),
        (b64(b'{"a":1}'), "json/base64", {"a": 1}),
        (b"\xe8\xaa\x9e", "utf-8", "語"),
        (b'{"a":1}', "json/utf-8", {"a": 1}),
        ("x", "utf-8", "x"),
        (b64(b"\x00\xff"), "base64", b"\x00\xff"),
        (b64(b"\x00\xff"), "utf-8/cipher+aes-256-cbc/base64", b"\x00\xff"),
        ("x", "vcdiff", "x"),
        (None, "json", None),
        ({"a": 1}, "json", {"a": 1}),
        ("x", "/", "x"),
    ],
)
def test_encodings_are_undone_last_step_first(data, encoding, meant):
    assert decoded(data, encoding) == meant


@pytest.mark.parametrize(
    ("data", "encoding", "left"),
    [
        ("{", "json", b"{"),
        ("[" * 100_000, "json", b"[" * 100_000),
        ("not base64!", "base64", b"not base64!"),
        ("é", "base64", "é".encode()),
        (b"\xff", "utf-8", b"\xff"),
        (b64(b"\xff"), "utf-8/base64", b"\xff"),
        ("\ud800", "json", b"\xed\xa0\x80"),
        (5, "base64", 5),
    ],
)
def test_undecodable_data_is_never_mistaken_for_text(data, encoding, left):
    assert decoded(data, encoding) == left


@given(st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_json_round_trips(value):
    text = json.dumps({"value": value})
    assert decoded(text, "json") == {"value": value}
    assert decoded(b64(text.encode()), "json/utf-8/base64") == {"value": value}


@given(st.text(), st.binary())
def test_text_and_bytes_round_trip(text, data):
    assert decoded(b64(text.encode()), "utf-8/base64") == text
    assert decoded(b64(data), "base64") == data
