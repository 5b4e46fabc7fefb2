"""Runs as chunks."""

from __future__ import annotations

import pytest

from rehydrate.core.event import Event
from rehydrate.core.json import load
from rehydrate.core.text.content import Run, collapsed_run, run_of
from rehydrate.postgres import runs


def token(seq: int | None, text: str, part: str | None = None) -> Event:
    return Event("token", "m", seq=seq, text=text, part=part, timestamp_ms=1_000)


def stream(*texts: str) -> Run:
    run = run_of(token(0, texts[0]))
    for seq, text in enumerate(texts[1:], 1):
        run.append(token(seq, text))
    return run


def read(*chunks: runs.StoredChunk) -> runs.RunReader:
    reader = runs.RunReader()
    rows = [load(chunk.body(None)) for chunk in chunks]
    reader.add(rows, [chunk.tape for chunk in chunks], range(len(chunks)))
    return reader


def text_of(run: Run) -> str:
    return "".join("".join(segment.fragments) for segment in run.segments)


def test_a_new_chunk_contains_only_what_was_added() -> None:
    run = stream("a", "b")
    first = runs.full_chunk(run, runs.PLAIN)
    mark = runs.mark(run, runs.PLAIN, (0,))
    assert runs.new_chunk(mark) is None
    run.append(token(2, "c"))
    run.append(token(3, "d", part="x"))
    second = runs.new_chunk(mark)
    assert second.segments == [["text", None, "c"], ["text", "x", "d"]]
    (again,) = read(first, second).runs()
    assert (again.first, again.last, text_of(again)) == (0, 3, "abcd")
    assert again.timings.entries == run.timings.entries


def test_an_event_without_content_extends_the_run() -> None:
    run = stream("a")
    mark = runs.mark(run, runs.PLAIN, (0,))
    run.append(Event("void", "m", seq=1, timestamp_ms=2_000))
    chunk = runs.new_chunk(mark)
    assert (chunk.last, chunk.segments) == (1, [])
    (again,) = read(runs.full_chunk(stream("a"), runs.PLAIN), chunk).runs()
    assert (again.last, len(again.timings.entries)) == (1, 2)


def test_a_run_that_was_read_encodes_only_later_events() -> None:
    reader = read(runs.full_chunk(stream("a", "b"), runs.PLAIN))
    (mark,) = reader.marks()
    assert runs.new_chunk(mark) is None
    mark.run.append(token(2, "c"))
    assert runs.new_chunk(mark).segments == [["text", None, "c"]]
    assert not mark.run.timings.unpacked
    again = runs.mark(mark.run, runs.PLAIN, (0, 1))
    assert runs.new_chunk(again) is None
    assert [timing.length for timing in mark.run.timings.entries] == [1, 1, 1]
    assert runs.new_chunk(again) is None
    mark.run.append(token(3, "d"))
    assert runs.new_chunk(again).segments == [["text", None, "d"]]


@pytest.mark.parametrize(
    "fragments", [["\ud83d", "\ude00"], ["a\ud83d", "\ude00\ud83d", "\ude00b"]]
)
def test_lone_surrogates_are_not_joined_into_one_character(fragments: list[str]) -> None:
    run = stream(*fragments)
    (again,) = read(runs.full_chunk(run, runs.PLAIN)).runs()
    assert text_of(again) == "".join(fragments)
    assert len(text_of(again)) == sum(timing.length for timing in again.timings.entries)


def test_runs_are_sorted_by_seq_and_the_tail_is_separate() -> None:
    late, early = Run(5, 5, [], run_of(token(5, "l")).timings), stream("e")
    tail = run_of(token(None, "t"))
    whole = collapsed_run(2, 3, [{"type": "text", "text": "w"}], 5)
    reader = read(
        runs.full_chunk(late, runs.PLAIN),
        runs.full_chunk(tail, runs.TAIL),
        runs.full_chunk(whole, runs.COLLAPSED),
        runs.full_chunk(early, runs.PLAIN),
    )
    assert [(run.first, run.collapsed) for run in reader.runs()] == [
        (0, False),
        (2, True),
        (5, False),
    ]
    assert text_of(reader.tail()) == "t"
    assert [mark.ordinals for mark in reader.marks()] == [(0,), (1,), (2,), (3,)]


def test_a_chunk_with_only_a_head_is_skipped() -> None:
    reader = runs.RunReader()
    reader.add([[None, None, None, [], [{}, 0, {}]]], [b""], [0])
    assert (reader.runs(), reader.tail(), reader.marks()) == ([], None, [])
