"""The stored form of runs: chunks while a message is open, one layout when it has finished.

A chunk is what one write added to one run, as JSON ``[first, last, kind, segments, head]``: the
range of seqs that the run then has, the segments that were added, and (in the last chunk of a
write) the attributes that differ from the message's row. Chunks are appended or deleted, never
changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.json import dump
from rehydrate.core.text.content import Run, Segment, Timings
from rehydrate.core.text.versioned_messages import VERSIONED_FIRST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.core.fold import MessageState


PLAIN, COLLAPSED, TAIL, CELL = 0, 1, 2, 3
"""Kinds of runs, as they are stored.

``PLAIN``: one event per seq. ``COLLAPSED``: a repair or import that covers a range of seqs.
``TAIL``: the events without a seq. ``CELL``: the content of a versioned channel message.
"""

_BETWEEN_HALVES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


class Mark(NamedTuple):
    """How much of a run is stored.

    Attributes:
        run: the run.
        kind: its kind as stored.
        ordinals: the chunks that contain it.
        segments: how many of its segments are stored.
        fragments: how many fragments of the last stored segment are stored.
        timings: how many of the timings since the run was read are stored.
    """

    run: Run
    kind: int
    ordinals: tuple[int, ...]
    segments: int
    fragments: int
    timings: int


class StoredChunk(NamedTuple):
    """The content of a chunk, before its head is added."""

    first: int
    last: int
    kind: int
    segments: list[list[Any]]
    tape: bytes

    def body(self, head: Any) -> bytes:
        """Return the JSON that the row stores, with *head*."""
        return dump([self.first, self.last, self.kind, self.segments, head])


def kind_of(run: Run, tail: Run | None) -> int:
    """Return the kind of *run*; *tail* is the message's run without seqs."""
    if run is tail:
        return TAIL
    if run.first <= VERSIONED_FIRST:
        return CELL
    return COLLAPSED if run.collapsed else PLAIN


def mark(run: Run, kind: int, ordinals: tuple[int, ...]) -> Mark:
    """Return the mark of a *run* that is fully stored, in the chunks *ordinals*."""
    fragments = len(run.segments[-1].fragments) if run.segments else 0
    return Mark(run, kind, ordinals, len(run.segments), fragments, len(run.timings.appended))


def full_chunk(run: Run, kind: int) -> StoredChunk:
    """Return a chunk with all of *run*."""
    segments = _encode_segments(run.segments)
    return StoredChunk(run.first, run.last, kind, segments, run.timings.packed())


def new_chunk(stored: Mark) -> StoredChunk | None:
    """Return a chunk with what was added to a run since *stored*; None if nothing was."""
    run = stored.run
    timings = run.timings.appended[stored.timings :]
    if not timings:  # every event adds a timing, also one without content
        return None
    added = run.segments[stored.segments :]
    if stored.segments:
        last = run.segments[stored.segments - 1]
        if len(last.fragments) > stored.fragments:
            added = [Segment(last.type, last.key, last.fragments[stored.fragments :]), *added]
    segments = _encode_segments(added)
    return StoredChunk(run.first, run.last, stored.kind, segments, Timings(timings).packed())


def _encode_segments(segments: Iterable[Segment]) -> list[list[Any]]:
    return [
        [each.type, each.key, _join_fragments(each.fragments)]
        if each.value is None
        else [each.type, each.key, None, each.value]
        for each in segments
    ]


def _join_fragments(fragments: list[str]) -> str | list[str]:
    """Return *fragments* as one text, or split where two lone surrogates would form a pair.

    JSON would read the two as one character, but timings count them as two, so the lengths in the
    timings would no longer match the text.
    """
    text = "".join(fragments)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _BETWEEN_HALVES.split(text)
    return text


class RunReader:
    """Rebuilds runs from their chunks, which must be added in order."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], tuple[Run, list[bytes], list[int]]] = {}

    def add(
        self, chunks: Iterable[Sequence[Any]], tapes: Iterable[bytes], ordinals: Iterable[int]
    ) -> None:
        """Append parsed *chunks* to their runs; a chunk that contains only a head is skipped."""
        run: Run | None = None
        current_kind, packed, run_ordinals = -1, list[bytes](), list[int]()
        for (first, last, kind, encoded, *_), tape, ordinal in zip(
            chunks, tapes, ordinals, strict=False
        ):
            if kind is None:
                continue
            if run is None or first != run.first or kind != current_kind:
                run, packed, run_ordinals = self._run(first, kind)
                current_kind = kind
            run.last = last
            packed.append(tape)
            run_ordinals.append(ordinal)
            segments = run.segments
            for entry in encoded:
                _append_segment(segments, entry)

    def _run(self, first: int, kind: int) -> tuple[Run, list[bytes], list[int]]:
        found = self._found.get((first, kind))
        if found is None:
            packed: list[bytes] = []
            run = Run(first, first, [], Timings(parts=packed), collapsed=kind == COLLAPSED)
            found = self._found[first, kind] = (run, packed, [])
        return found

    def runs(self) -> list[Run]:
        """Return the runs with seqs, in order."""
        numbered = (PLAIN, COLLAPSED)
        found = [run for (_, kind), (run, *_) in self._found.items() if kind in numbered]
        return sorted(found, key=lambda run: run.first)

    def tail(self) -> Run | None:
        """Return the run without seqs, or None."""
        return next((run for (_, kind), (run, *_) in self._found.items() if kind == TAIL), None)

    def restore_into(self, state: MessageState) -> None:
        """Set the runs of *state*, including those of its versioned messages."""
        versioned = {
            first: found[0] for (first, kind), found in self._found.items() if kind == CELL
        }
        state.restore_runs(self.runs(), self.tail(), versioned)

    def marks(self) -> list[Mark]:
        """Return a mark for each run: everything that was read is stored."""
        return [mark(run, kind, tuple(rows)) for (_, kind), (run, _, rows) in self._found.items()]


def _append_segment(segments: list[Segment], entry: Sequence[Any]) -> None:
    type_, key, text = entry[:3]
    if text is None:
        segments.append(Segment(type_, key, [], entry[3]))
        return
    last = segments[-1] if segments else None
    if last is None or last.type != type_ or last.key != key or last.value is not None:
        segments.append(Segment(type_, key, [text] if isinstance(text, str) else text))
    elif isinstance(text, str):
        last.fragments.append(text)
    else:
        last.fragments.extend(text)
