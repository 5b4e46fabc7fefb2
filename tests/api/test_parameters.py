"""Parameters and bodies are checked, and limited."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.requests import Request

from rehydrate.api import conversations, parameters
from rehydrate.api.answers import TooSlow, UnsupportedMediaType
from rehydrate.core.positions import Cursor, encode_cursor
from rehydrate.errors import BadParameter, TooLarge


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
    assert conversations.limit_of(asking()) == 50
    assert [conversations.limit_of(asking(limit=n)) for n in (1, 50, 200)] == [1, 50, 200]
    for wrong in ("0", "201", "-1", "", "x", "1.0", "1e1", " 5", "+5", "05", "５", "9" * 5000):
        assert refused(conversations.limit_of, limit=wrong) == "limit"


def test_until_is_a_serial():
    assert conversations.until_of(asking()) is None
    for good in ("01826232498871-001@abcdefghij:001", "x" * 256, "日本語"):
        assert conversations.until_of(asking(until=good)) == good
    for wrong in ("", "x" * 257, "a\0b", "a\nb", "\x7f", "\x85"):
        assert refused(conversations.until_of, until=wrong) == "until"


def test_before_is_a_cursor_of_an_earlier_answer():
    assert conversations.before_of(asking()) is None
    cursor = Cursor("0" * 256, "é" * 256)
    assert conversations.before_of(asking(before=encode_cursor(cursor))) == cursor
    nested = base64.urlsafe_b64encode(b"[" * 2000).decode()
    for wrong in ("", "x", "e30", "W10", "bnVsbA", "!", nested, "A" * 50_000, "é"):
        assert refused(conversations.before_of, before=wrong) == "before"


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: base64.b64encode(b).decode()))
def test_any_text_is_either_a_cursor_or_refused(text):
    with contextlib.suppress(BadParameter):
        assert all(isinstance(part, str) for part in conversations.before_of(asking(before=text)))


def test_a_conversation_id_can_name_a_channel():
    good = ("conv-42", "x" * 128, "a/b c", "日本語 🙂", "100%")
    assert [conversations.conversation_id_of(asking({"conversation_id": i})) for i in good] == list(
        good
    )
    for wrong in ("", "x" * 129, "a*", "[x", ":x", "a\0b", "\x9f", "\udc80"):
        path = {"conversation_id": wrong}
        assert refused(conversations.conversation_id_of, path=path) == "conversation_id"


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


def sending(*chunks, media_type="application/json", length=None, stall=False):
    """A request with a body in *chunks*; `taken` counts the chunks that were read."""
    left, taken = list(chunks), []
    headers = [(b"content-type", media_type.encode())] if media_type else []
    if length is not None:
        headers.append((b"content-length", str(length).encode()))

    async def receive():
        if not left and stall:
            await asyncio.sleep(60)
        taken.append(left.pop(0))
        return {"type": "http.request", "body": taken[-1], "more_body": bool(left) or stall}

    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return request, taken


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
async def test_json_is_read_from_chunks_of_any_size(media_type):
    request, _ = sending(b'{"a":', b'"\xe6\x97', b'\xa5"}', media_type=media_type)
    assert await parameters.read_json(request, 100) == {"a": "日"}


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_declared_as_json_is_not_read(media_type):
    request, taken = sending(b"{}", media_type=media_type)
    with pytest.raises(UnsupportedMediaType):
        await parameters.read_json(request, 100)
    assert not taken


async def test_a_body_that_is_declared_too_large_is_not_read():
    request, taken = sending(b"{}", length=101)
    with pytest.raises(TooLarge, match="100 bytes"):
        await parameters.read_json(request, 100)
    assert not taken


async def test_reading_stops_when_a_body_exceeds_the_limit():
    request, taken = sending(*[b"x" * 40] * 10)
    with pytest.raises(TooLarge):
        await parameters.read_json(request, 100)
    assert len(taken) == 3
    request, _ = sending(b"[" + b" " * 98 + b"]")
    assert await parameters.read_json(request, 100) == []


async def test_a_body_that_does_not_arrive_times_out(monkeypatch):
    monkeypatch.setattr(parameters, "ARRIVAL_S", 0.01)
    request, _ = sending(b"{", stall=True)
    with pytest.raises(TooSlow):
        await parameters.read_json(request, 100)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"{'a':1}", b"NaN", b'"\\ud800"', b"[" * 2000, b"\xef\xbb\xbf{}", b"1 2"],
)
async def test_a_body_that_is_not_json_is_refused(body):
    request, _ = sending(body)
    with pytest.raises(BadParameter, match="not JSON") as error:
        await parameters.read_json(request, 10_000)
    assert error.value.parameter == "body"


async def test_the_nesting_of_json_is_limited():
    for depth, good in ((parameters.DEPTH, True), (parameters.DEPTH + 1, False)):
        request, _ = sending(b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1))
        if good:
            assert isinstance(await parameters.read_json(request, 10_000), dict)
        else:
            with pytest.raises(BadParameter, match="nested"):
                await parameters.read_json(request, 10_000)
