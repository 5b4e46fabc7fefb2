"""Runs in chunks: only what is new is said, and it is put together again."""

from __future__ import annotations

import pytest

from rehydrate.core.event import Event
from rehydrate.core.text.content import Run, collapsed_run, run_of
from rehydrate.postgres import runs
from rehydrate.postgres.attributes import parsed


def token(seq: int | None, text: str, part: str | None = None) -> Event:
    return Event("token", "m", seq=seq, text=text, part=part, timestamp_ms=1_000)


def stream(*texts: str) -> Run:
    run = run_of(token(0, texts[0]))
    for seq, text in enumerate(texts[1:], 1):
        run.append(token(seq, text))
    return run


def read(*chunks: runs.StoredChunk) -> runs.RunReader:
    reader = runs.RunReader()
    rows = [parsed(chunk.body(None)) for chunk in chunks]
    reader.take(rows, [chunk.tape for chunk in chunks], range(len(chunks)))
    return reader


def text_of(run: Run) -> str:
    return "".join("".join(segment.fragments) for segment in run.segments)


def test_only_what_came_since_is_said() -> None:
    run = stream("a", "b")
    first = runs.whole(run, runs.PLAIN)
    mark = runs.mark(run, runs.PLAIN, (0,))
    assert runs.since(mark) is None
    run.append(token(2, "c"))
    run.append(token(3, "d", part="x"))
    second = runs.since(mark)
    assert second.said == [["text", None, "c"], ["text", "x", "d"]]
    (again,) = read(first, second).runs()
    assert (again.first, again.last, text_of(again)) == (0, 3, "abcd")
    assert again.timings.entries == run.timings.entries


def test_an_event_that_says_nothing_keeps_its_place() -> None:
    run = stream("a")
    mark = runs.mark(run, runs.PLAIN, (0,))
    run.append(Event("void", "m", seq=1, timestamp_ms=2_000))
    chunk = runs.since(mark)
    assert (chunk.last, chunk.said) == (1, [])
    (again,) = read(runs.whole(stream("a"), runs.PLAIN), chunk).runs()
    assert (again.last, len(again.timings.entries)) == (1, 2)


def test_a_run_that_was_read_says_only_what_came_after() -> None:
    reader = read(runs.whole(stream("a", "b"), runs.PLAIN))
    (mark,) = reader.marks()
    assert runs.since(mark) is None
    mark.run.append(token(2, "c"))
    assert runs.since(mark).said == [["text", None, "c"]]
    assert not mark.run.timings.unpacked
    again = runs.mark(mark.run, runs.PLAIN, (0, 1))
    assert runs.since(again) is None
    assert [tick.length for tick in mark.run.timings.entries] == [1, 1, 1]
    assert runs.since(again) is None
    mark.run.append(token(3, "d"))
    assert runs.since(again).said == [["text", None, "d"]]


@pytest.mark.parametrize("pieces", [["\ud83d", "\ude00"], ["a\ud83d", "\ude00\ud83d", "\ude00b"]])
def test_halves_do_not_melt_into_one_character(pieces: list[str]) -> None:
    run = stream(*pieces)
    (again,) = read(runs.whole(run, runs.PLAIN)).runs()
    assert text_of(again) == "".join(pieces)
    assert len(text_of(again)) == sum(tick.length for tick in again.timings.entries)


def test_runs_come_in_the_order_of_their_seqs_and_the_tail_apart() -> None:
    late, early = Run(5, 5, [], run_of(token(5, "l")).timings), stream("e")
    tail = run_of(token(None, "t"))
    whole = collapsed_run(2, 3, [{"type": "text", "text": "w"}], 5)
    reader = read(
        runs.whole(late, runs.PLAIN),
        runs.whole(tail, runs.TAIL),
        runs.whole(whole, runs.COLLAPSED),
        runs.whole(early, runs.PLAIN),
    )
    assert [(run.first, run.collapsed) for run in reader.runs()] == [
        (0, False),
        (2, True),
        (5, False),
    ]
    assert text_of(reader.tail()) == "t"
    assert [mark.ordinals for mark in reader.marks()] == [(0,), (1,), (2,), (3,)]


def test_a_chunk_without_a_run_is_passed_over() -> None:
    reader = runs.RunReader()
    reader.take([[None, None, None, [], [{}, 0, {}]]], [b""], [0])
    assert (reader.runs(), reader.tail(), reader.marks()) == ([], None, [])
