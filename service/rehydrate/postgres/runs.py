"""Runs of content as they are stored: appended in chunks while open, in one piece at the end.

A chunk is what one write added to one run, as JSON ``[first, last, kind, said, head]``: the seqs
that the run has then, the segments that came, and (in the newest chunk of a write) the facts that
are not as in the message's row. Chunks are only ever appended, or deleted whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.json import dump
from rehydrate.core.replay.timings import Timing, Timings
from rehydrate.core.text.content import Run, Segment
from rehydrate.core.text.versioned_messages import VERSIONED_FIRST
from rehydrate.postgres.stored_timings import StoredTimings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.core.fold import MessageState

PLAIN, COLLAPSED, TAIL, CELL = 0, 1, 2, 3
"""Kinds of runs; ``TAIL`` is the one whose events carried no seq, ``CELL`` that of a channel message
that grows."""

_BETWEEN_HALVES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


class Mark(NamedTuple):
    """How far a run is stored: so many segments, pieces of the last one, ticks that came."""

    run: Run
    kind: int
    ordinals: tuple[int, ...]
    segments: int
    pieces: int
    ticks: int


class StoredChunk(NamedTuple):
    """A row to be: without its head."""

    first: int
    last: int
    kind: int
    said: list[list[Any]]
    tape: bytes

    def body(self, head: Any) -> bytes:
        """What lies in the row."""
        return dump([self.first, self.last, self.kind, self.said, head])


def kind_of(run: Run, tail: Run | None) -> int:
    """The kind of a message's *run*."""
    if run is tail:
        return TAIL
    if run.first <= VERSIONED_FIRST:
        return CELL
    return COLLAPSED if run.collapsed else PLAIN


def mark(run: Run, kind: int, ordinals: tuple[int, ...]) -> Mark:
    """Note that *run* is stored as it now is, in the chunks *ordinals*."""
    pieces = len(run.segments[-1].fragments) if run.segments else 0
    return Mark(run, kind, ordinals, len(run.segments), pieces, len(_came(run.timings)))


def whole(run: Run, kind: int) -> StoredChunk:
    """All of *run*."""
    return StoredChunk(run.first, run.last, kind, _said(run.segments), run.timings.packed())


def since(known: Mark) -> StoredChunk | None:
    """What came to the run since *known* was noted; None if nothing did."""
    run = known.run
    ticks = _came(run.timings)[known.ticks :]
    if not ticks:
        return None
    new = run.segments[known.segments :]
    if known.segments:
        last = run.segments[known.segments - 1]
        if len(last.fragments) > known.pieces:
            new = [Segment(last.type, last.key, last.fragments[known.pieces :]), *new]
    return StoredChunk(run.first, run.last, known.kind, _said(new), Timings(ticks).packed())


def _came(tape: Timings) -> list[Timing]:
    """The ticks that were not read from the store."""
    return tape.came if isinstance(tape, StoredTimings) else tape.entries


def _said(segments: Iterable[Segment]) -> list[list[Any]]:
    return [
        [each.type, each.key, _joined(each.fragments)]
        if each.value is None
        else [each.type, each.key, None, each.value]
        for each in segments
    ]


def _joined(pieces: list[str]) -> str | list[str]:
    """*pieces* as one text; apart where halves of a surrogate pair would melt in JSON.

    A tape counts characters, and the halves are two.
    """
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _BETWEEN_HALVES.split(text)
    return text


class RunReader:
    """Puts runs together from their chunks, which come in order."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], tuple[Run, list[bytes], list[int]]] = {}

    def take(
        self, chunks: Iterable[Sequence[Any]], tapes: Iterable[bytes], ordinals: Iterable[int]
    ) -> None:
        """Take in chunks, parsed; those without a run are passed over."""
        run: Run | None = None
        kind_now, pieces, rows = -1, list[bytes](), list[int]()
        for (first, last, kind, said, *_), tape, ordinal in zip(
            chunks, tapes, ordinals, strict=False
        ):
            if kind is None:
                continue
            if run is None or first != run.first or kind != kind_now:
                run, pieces, rows = self._run(first, kind)
                kind_now = kind
            run.last = last
            pieces.append(tape)
            rows.append(ordinal)
            segments = run.segments
            for entry in said:
                _say(segments, entry)

    def _run(self, first: int, kind: int) -> tuple[Run, list[bytes], list[int]]:
        found = self._found.get((first, kind))
        if found is None:
            pieces: list[bytes] = []
            run = Run(first, first, [], StoredTimings(pieces), collapsed=kind == COLLAPSED)
            found = self._found[first, kind] = (run, pieces, [])
        return found

    def runs(self) -> list[Run]:
        """The runs with seqs, in order."""
        numbered = (PLAIN, COLLAPSED)
        found = [run for (_, kind), (run, *_) in self._found.items() if kind in numbered]
        return sorted(found, key=lambda run: run.first)

    def tail(self) -> Run | None:
        """The run without seqs."""
        return next((run for (_, kind), (run, *_) in self._found.items() if kind == TAIL), None)

    def give(self, state: MessageState) -> None:
        """Give *state* the runs, also those of its cells."""
        versioned = {
            first: found[0] for (first, kind), found in self._found.items() if kind == CELL
        }
        state.restore_runs(self.runs(), self.tail(), versioned)

    def marks(self) -> list[Mark]:
        """How far each run is stored: as far as it was read."""
        return [mark(run, kind, tuple(rows)) for (_, kind), (run, _, rows) in self._found.items()]


def _say(segments: list[Segment], entry: Sequence[Any]) -> None:
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
