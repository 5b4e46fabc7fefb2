from __future__ import annotations

import base64
import contextlib
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.requests import Request

from rehydrate.api import parameters
from rehydrate.core.positions import Cursor, encode_cursor
from rehydrate.errors import BadParameter


def asking(path=None, **query):
    encoded = urlencode(query).encode()
    return Request(
        {"type": "http", "headers": [], "query_string": encoded, "path_params": path or {}}
    )


def refused(read, **asked):
    with pytest.raises(BadParameter) as error:
        read(asking(**asked))
    return error.value.parameter


def test_a_limit_is_a_number_from_1_to_200():
    assert parameters.limit(asking()) == 50
    assert [parameters.limit(asking(limit=n)) for n in (1, 50, 200)] == [1, 50, 200]
    for wrong in ("0", "201", "-1", "", "x", "1.0", "1e1", " 5", "+5", "05", "５", "9" * 5000):
        assert refused(parameters.limit, limit=wrong) == "limit"


def test_until_is_a_serial():
    assert parameters.until(asking()) is None
    for good in ("01826232498871-001@abcdefghij:001", "x" * 256, "日本語"):
        assert parameters.until(asking(until=good)) == good
    for wrong in ("", "x" * 257, "a\0b", "a\nb", "\x7f", "\x85"):
        assert refused(parameters.until, until=wrong) == "until"


def test_before_is_a_cursor_of_an_earlier_answer():
    assert parameters.before(asking()) is None
    cursor = Cursor("0" * 256, "é" * 256)
    assert parameters.before(asking(before=encode_cursor(cursor))) == cursor
    nested = base64.urlsafe_b64encode(b"[" * 2000).decode()
    for wrong in ("", "x", "e30", "W10", "bnVsbA", "!", nested, "A" * 50_000, "é"):
        assert refused(parameters.before, before=wrong) == "before"


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: base64.b64encode(b).decode()))
def test_any_text_is_either_a_cursor_or_refused(text):
    with contextlib.suppress(BadParameter):
        assert all(isinstance(part, str) for part in parameters.before(asking(before=text)))


def test_a_conversation_id_can_name_a_channel():
    good = ("conv-42", "x" * 128, "a/b c", "日本語 🙂", "100%")
    assert [parameters.conversation_id(asking({"conversation_id": i})) for i in good] == list(good)
    for wrong in ("", "x" * 129, "a*", "[x", ":x", "a\0b", "\x9f", "\udc80"):
        path = {"conversation_id": wrong}
        assert refused(parameters.conversation_id, path=path) == "conversation_id"


def test_a_message_id_has_no_control_characters():
    good = ("resp_1", "x" * 256, "a/b*[:", "日本語")
    message_id = TypeAdapter(parameters.MessageId)
    assert [message_id.validate_python(i) for i in good] == list(good)
    for wrong in ("x" * 257, "a\0b", "a\rb", "\udc80"):
        with pytest.raises(BadParameter) as error:
            message_id.validate_python(wrong)
        assert error.value.parameter == "message_id"


def test_each_parameter_is_described():
    described = parameters.described("conversation_id", "limit")["parameters"]
    assert [(each["name"], each["in"]) for each in described] == [
        ("conversation_id", "path"),
        ("limit", "query"),
    ]
    assert described[1]["schema"]["maximum"] == 200
