"""The decoder of server-sent events compared with a second implementation of the rules."""

from __future__ import annotations

import re
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehydrate.providers.failures import StreamUnreadable
from rehydrate.providers.sse import ServerSentEvent, SseDecoder

LINE = st.one_of(
    st.sampled_from(
        [
            "", "", "data", "data:", "data: ", "data:  two", "data: x", "event: token", "event",
            "id: 7", "id", "id: a\0b", "retry: 10", "retry: +1", "retry: 1_0", "retry: ٣", "retry:",
            ": comment", ":", "unknown: field", "data : no", " data: no", "data: [DONE]", "dataé: n",
            "\ufeffdata: a mark that is not at the beginning", "data: é😀",
        ]
    ),
    st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8),
)  # fmt: skip
LINE_END = st.sampled_from([b"\n", b"\r", b"\r\n"])
BROKEN = st.sampled_from([b"", b"", b"", b"\xff", b"\xe2\x82", b"\xf0\x9f\x98"])


@st.composite
def streams(draw) -> bytes:
    lines = draw(st.lists(st.tuples(LINE, BROKEN, LINE_END), max_size=25))
    body = b"".join(line.encode() + broken + end for line, broken, end in lines)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf"])) + body


def by_the_rules(body: bytes) -> list[ServerSentEvent]:
    """Decode the whole stream at once, following the text of the specification."""
    stream = body.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", stream)[:-1]  # text after the last line end is not a line
    events, data, event_type, last_id, retry = [], "", "", "", None
    for line in lines:
        if line == "":
            if data != "":
                events.append(ServerSentEvent(event_type or "message", data[:-1], last_id, retry))
            data, event_type, retry = "", "", None
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return events


def decoded(body: bytes, cuts: list[int]) -> list[ServerSentEvent]:
    decoder = SseDecoder()
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [event for start, end in pairwise(places) for event in decoder.feed(body[start:end])]


@settings(max_examples=600)
@given(streams(), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_bytes_in_any_chunks_are_decoded_by_the_rules(body, cuts):
    assert decoded(body, cuts) == by_the_rules(body)


@given(st.binary(max_size=60), st.lists(st.integers(0, 10_000), max_size=6))
def test_arbitrary_bytes_are_decoded_without_errors(body, cuts):
    assert decoded(body, cuts) == by_the_rules(body)


@given(streams())
def test_decoding_byte_by_byte_gives_the_same_events(body):
    assert decoded(body, list(range(len(body)))) == by_the_rules(body)


def test_an_event_is_returned_with_its_last_byte():
    for end in (b"\n\n", b"\r\r", b"\r\n\r\n"):
        decoder = SseDecoder()
        assert [event.data for event in decoder.feed(b"data: now" + end)] == ["now"]
    assert not decoder.feed(b"\n")


def test_a_character_may_be_split_over_chunks():
    body = "data: é😀\n\n".encode()
    for cut in range(len(body)):
        assert [event.data for event in decoded(body, [cut])] == ["é😀"]


def test_the_end_marker_is_distinguished_from_json():
    (done, text) = SseDecoder().feed(b'data: [DONE]\n\ndata: ["DONE"]\n\n')
    assert (done.is_done, text.is_done) == (True, False)


@pytest.mark.parametrize(
    ("body", "pending"),
    [(b"", False), (b"data: x\n\n", False), (b"data: x\n", True), (b"da", True)],
)
def test_an_unfinished_event_is_pending(body, pending):
    decoder = SseDecoder()
    decoder.feed(body)
    assert decoder.pending is pending


@pytest.mark.parametrize("piece", [b"x" * 400, b"data: " + b"y" * 400 + b"\n"])
def test_an_endless_event_is_rejected_and_an_endless_stream_is_not(piece):
    decoder = SseDecoder(event_bytes_max=1000)
    decoder.feed(piece)
    decoder.feed(piece)
    with pytest.raises(StreamUnreadable, match="event_too_long"):
        decoder.feed(piece)
    patient = SseDecoder(event_bytes_max=1000)
    for _ in range(100):
        patient.feed(b": keep-alive " + b"z" * 200 + b"\n")
        patient.feed(b"data: " + b"z" * 500 + b"\n\n")


def test_a_long_line_in_small_chunks_is_not_copied_for_each_chunk():
    decoder = SseDecoder()
    tracemalloc.start()
    try:
        for _ in range(2000):
            decoder.feed(b"x" * 500)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3_000_000
