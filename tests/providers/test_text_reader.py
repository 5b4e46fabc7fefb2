"""Text as a file: any sizes of reads, lines, and errors after the last of the text."""

from __future__ import annotations

import io
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.providers.failures import StreamBroken
from rehydrate.providers.text_reader import AsyncTextReader, TextReader

DELTAS = st.lists(st.text(alphabet="ab\n\rü", max_size=5), max_size=8)


def reader(deltas, closed=None, error=None):
    def said():
        yield from deltas
        if error is not None:
            raise error

    return TextReader(said(), (closed if closed is not None else []).clear)


def async_reader(deltas, error=None):
    async def said():
        for text in deltas:
            yield text
        if error is not None:
            raise error

    async def close():
        pass

    return AsyncTextReader(said(), close)


@given(DELTAS, st.integers(1, 7))
def test_reads_of_any_size_add_up_to_the_text(deltas, size):
    file, pieces = reader(deltas), []
    while piece := file.read(size):
        assert len(piece) <= size
        pieces.append(piece)
    assert "".join(pieces) == "".join(deltas)
    assert reader(deltas).read() == "".join(deltas)


@given(DELTAS)
def test_lines_end_at_line_feeds_and_nowhere_else(deltas):
    whole = io.StringIO("".join(deltas), newline="\n")
    assert list(reader(deltas)) == list(whole)


@given(DELTAS, st.integers(1, 4))
async def test_the_async_file_reads_the_same(deltas, size):
    file, pieces = async_reader(deltas), []
    while piece := await file.read(size):
        pieces.append(piece)
    assert "".join(pieces) == "".join(deltas)
    assert [line async for line in async_reader(deltas)] == reader(deltas).readlines()
    assert await async_reader(deltas).read() == "".join(deltas)


def test_a_read_returns_available_text_without_waiting():
    def said():
        yield "now"
        raise AssertionError("it read ahead")

    assert TextReader(said(), list).read(100) == "now"


def test_a_size_of_none_reads_everything_and_zero_reads_nothing():
    assert reader(["a\n", "b"]).read(None) == "a\nb"
    assert reader(["a"]).read(0) == reader(["a"]).readline(0) == ""
    assert reader(["abc\n"]).readline(2) == "ab"


def test_an_error_is_raised_after_the_text():
    copied = io.StringIO()
    with pytest.raises(StreamBroken):
        shutil.copyfileobj(reader(["one ", "two"], error=StreamBroken("cut")), copied)
    assert copied.getvalue() == "one two"
    with pytest.raises(StreamBroken):
        reader(["one"], error=StreamBroken("cut")).read()
    lines = reader(["one\ntw"], error=StreamBroken("cut"))
    assert [lines.readline(), lines.readline()] == ["one\n", "tw"]
    with pytest.raises(StreamBroken):
        lines.readline()


async def test_an_async_file_raises_an_error_after_the_text():
    file = async_reader(["one\ntw"], StreamBroken("cut"))
    assert [await file.readline(), await file.read(9)] == ["one\n", "tw"]
    for read in (file.read, file.readline):
        with pytest.raises(StreamBroken):
            await read()


async def test_closing_closes_the_stream_once_and_later_reads_raise():
    closed = []
    file = TextReader(iter(["a"]), lambda: closed.append("sync"))
    with file:
        assert file.readable()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()

    async def close():
        closed.append("async")

    async def nothing():
        return
        yield

    async with AsyncTextReader(nothing(), close) as later:
        pass
    await later.close()
    with pytest.raises(ValueError, match="closed"):
        await later.read()
    assert closed == ["sync", "async"]


@pytest.mark.parametrize("name", ["read", "readline"])
def test_small_reads_of_a_long_text_cost_its_length_and_not_its_square(name):
    """Copying the rest of the text for each read would copy 2 TB here, and time out."""
    text = "x" * 2_000_000
    read = getattr(reader([text]), name)
    count = 0
    while read(1):
        count += 1
    assert count == len(text)
    lines = reader(["ab\n" * 500_000])
    assert sum(1 for _ in lines) == 500_000


async def test_lines_of_a_long_text_are_read_asynchronously_without_copying_the_rest():
    file = async_reader(["ab\n" * 500_000])
    count = 0
    async for line in file:
        assert line == "ab\n"
        count += 1
    assert count == 500_000
