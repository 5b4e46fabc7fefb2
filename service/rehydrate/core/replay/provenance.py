"""Provenance: which chunks of a text came from the database, and which from history since.

The stored message and the same message with later events folded in are compared chunk by chunk:
what the first contains is the database's. Live messages come later, and only their reader knows of
them.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.core.message import MessageState
    from rehydrate.core.replay.timings import Timing
    from rehydrate.core.text.content import Run

Source = Literal["database", "history"]

MAX_CHUNKS = 4_000
"""With more chunks, several are joined to one."""


class Span(NamedTuple):
    """Consecutive chunks from one source.

    Attributes:
        first, last: their seqs; None where they had none.
        timings: the length, in characters, and the time of each chunk.
        is_whole: the content came, or was stored, as one text.
    """

    source: Source
    first: int | None
    last: int | None
    timings: list[Timing]
    is_whole: bool = False


def spans(stored: MessageState | None, now: MessageState) -> list[Span]:
    """Return the chunks of *now* by source; *stored* is the message as the store had it."""
    if stored is None or stored.gen != now.gen:
        stored = None
    found = [each for run in now.runs for each in _numbered(stored, now, run)]
    if now.tail is not None:
        had = 0 if stored is None or stored.tail is None else len(stored.tail.timings.entries)
        found += _unnumbered(now.tail, had)
    for message in now.visible_versioned():
        before = stored.versioned.get(message.serial) if stored is not None else None
        found += _unnumbered(message.run, 0 if before is None else len(before.run.timings.entries))
    return found


def joined(found: list[Span]) -> tuple[list[Span], int]:
    """Return *found* with at most about `MAX_CHUNKS` chunks, and how many were joined to one."""
    factor = -(-sum(len(each.timings) for each in found) // MAX_CHUNKS) or 1
    if factor == 1:
        return found, 1
    return [each._replace(timings=list(_joined(each.timings, factor))) for each in found], factor


def _joined(timings: list[Timing], factor: int) -> Iterator[Timing]:
    for at in range(0, len(timings), factor):
        some = timings[at : at + factor]
        yield some[-1]._replace(length=sum(timing.length for timing in some))


def _numbered(stored: MessageState | None, now: MessageState, run: Run) -> Iterator[Span]:
    if run.collapsed:
        known = stored is not None and stored.covered == now.covered and stored.contains(run.last)
        timings, source = run.timings.entries, _source(is_known=known)
        yield Span(source, max(run.first, 0), run.last, timings, is_whole=True)
        return
    chunks = enumerate(run.timings.entries, run.first)
    by_source = groupby(chunks, lambda chunk: stored is not None and stored.contains(chunk[0]))
    for known, group in by_source:
        some = list(group)
        timings = [timing for _, timing in some]
        yield Span(_source(is_known=known), some[0][0], some[-1][0], timings)


def _unnumbered(run: Run, had: int) -> Iterator[Span]:
    timings = run.timings.entries
    for source, some in (("database", timings[:had]), ("history", timings[had:])):
        if some:
            yield Span(_source(is_known=source == "database"), None, None, some)


def _source(*, is_known: bool) -> Source:
    return "database" if is_known else "history"
