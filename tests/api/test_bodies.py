from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from rehydrate.api import bodies
from rehydrate.api.problems import TooSlow, UnsupportedMediaType
from rehydrate.errors import BadParameter, TooLarge


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
    assert await bodies.read_json(request, 100) == {"a": "日"}


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_declared_as_json_is_not_read(media_type):
    request, taken = sending(b"{}", media_type=media_type)
    with pytest.raises(UnsupportedMediaType):
        await bodies.read_json(request, 100)
    assert not taken


async def test_a_body_that_is_declared_too_large_is_not_read():
    request, taken = sending(b"{}", length=101)
    with pytest.raises(TooLarge, match="100 bytes"):
        await bodies.read_json(request, 100)
    assert not taken


async def test_reading_stops_when_a_body_exceeds_the_limit():
    request, taken = sending(*[b"x" * 40] * 10)
    with pytest.raises(TooLarge):
        await bodies.read_json(request, 100)
    assert len(taken) == 3
    request, _ = sending(b"[" + b" " * 98 + b"]")
    assert await bodies.read_json(request, 100) == []


async def test_a_body_that_does_not_arrive_times_out(monkeypatch):
    monkeypatch.setattr(bodies, "ARRIVAL_S", 0.01)
    request, _ = sending(b"{", stall=True)
    with pytest.raises(TooSlow):
        await bodies.read_json(request, 100)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"{'a':1}", b"NaN", b'"\\ud800"', b"[" * 2000, b"\xef\xbb\xbf{}", b"1 2"],
)
async def test_a_body_that_is_not_json_is_refused(body):
    request, _ = sending(body)
    with pytest.raises(BadParameter, match="not JSON") as error:
        await bodies.read_json(request, 10_000)
    assert error.value.parameter == "body"


async def test_the_nesting_of_json_is_limited():
    for depth, good in ((bodies.DEPTH, True), (bodies.DEPTH + 1, False)):
        request, _ = sending(b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1))
        if good:
            assert isinstance(await bodies.read_json(request, 10_000), dict)
        else:
            with pytest.raises(BadParameter, match="nested"):
                await bodies.read_json(request, 10_000)
