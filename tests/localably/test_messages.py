from __future__ import annotations

import msgpack
import orjson
import pytest

from localably.errors import FrameError, RefusedError
from localably.frames import Format
from localably.messages import Message, accepted, accepted_operation, check_size, page, size_bytes


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "x",
        [],
        {"name": 1},
        {"id": []},
        {"clientId": 1},
        {"encoding": 5},
        {"extras": []},
        {"extras": "x"},
        {"name": "x" * 3000},
        {"extras": {"deep": b"bytes"}},
        {"data": "!", "encoding": "base64"},
    ],
)
def test_a_message_of_wrong_types_is_refused(raw):
    with pytest.raises(FrameError):
        accepted(raw, Format.JSON)


@pytest.mark.parametrize(
    ("data", "text"), [(5, "5"), ({"a": 1}, '{"a":1}'), ([1], "[1]"), (True, "true")]
)
def test_data_that_is_not_text_is_stored_as_json(data, text):
    assert accepted({"data": data}, Format.JSON) == {"data": text, "encoding": "json"}


def test_nulls_are_left_out():
    assert accepted({"name": None, "data": None, "extras": None}, Format.JSON) == {}


def test_tm6_the_size_is_that_of_name_client_id_data_and_extras():
    message = {"name": "né", "clientId": "c", "data": "日本", "extras": {"a": 1}, "id": "x" * 99}
    assert size_bytes(message) == 3 + 1 + 6 + 7
    with pytest.raises(RefusedError) as refused:
        check_size([message, message], 33)
    assert refused.value.code == 40009
    check_size([message, message], 34)


@pytest.mark.parametrize("raw", ["x", {"clientId": 1}, {"description": []}, {"metadata": "x"}])
def test_an_operation_of_wrong_types_is_refused(raw):
    with pytest.raises(FrameError):
        accepted_operation(raw)


def test_a_page_is_the_rows_and_each_is_encoded_once():
    messages = [Message({"data": b"\x00", "n": n}) for n in range(3)]
    rows = [m.row(Format.MSGPACK) for m in messages]
    assert msgpack.unpackb(page(messages, Format.MSGPACK)) == [m.fields for m in messages]
    assert all(m.row(Format.MSGPACK) is row for m, row in zip(messages, rows, strict=True))
    shown = orjson.loads(page(messages, Format.JSON))
    assert [m["data"] for m in shown] == ["AA=="] * 3


def test_a_message_without_serials_has_neither_serial_nor_version():
    message = Message({"data": "x", "serial": "s", "version": {}}, bare=True)
    assert orjson.loads(message.row(Format.JSON)) == {"data": "x"}
