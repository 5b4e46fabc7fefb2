"""Where each piece of a text came from: the database, or the channel's history since.

A message as it is stored and the same message folded further are compared piece by piece; what
the first one contains already is the database's. What a reader hears after that is live, and only
that reader can know.
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

MOST_PIECES = 4_000
"""More pieces than that are joined, so many to one."""


class Span(NamedTuple):
    """Consecutive pieces from one source.

    ``first`` and ``last``: their seqs; None where they carried none. ``ticks``: the length, in
    characters, and the time of each piece. ``is_whole``: it came, or was stored, as one text.
    """

    source: Source
    first: int | None
    last: int | None
    ticks: list[Timing]
    is_whole: bool = False


def stretches(stored: MessageState | None, now: MessageState) -> list[Span]:
    """The pieces of *now* by source; *stored* is what the store had of it when it was read."""
    if stored is None or stored.gen != now.gen:
        stored = None
    found = [each for run in now.runs for each in _numbered(stored, now, run)]
    if now.tail is not None:
        had = 0 if stored is None or stored.tail is None else len(stored.tail.tape.ticks)
        found += _unnumbered(now.tail, had)
    for cell in now.visible_cells():
        before = stored.cells.get(cell.serial) if stored is not None else None
        found += _unnumbered(cell.run, 0 if before is None else len(before.run.tape.ticks))
    return found


def joined(found: list[Span]) -> tuple[list[Span], int]:
    """*found* with at most about `MOST_PIECES` pieces, and how many were joined to one."""
    factor = -(-sum(len(each.ticks) for each in found) // MOST_PIECES) or 1
    if factor == 1:
        return found, 1
    return [each._replace(ticks=list(_joined(each.ticks, factor))) for each in found], factor


def _joined(ticks: list[Timing], factor: int) -> Iterator[Timing]:
    for at in range(0, len(ticks), factor):
        some = ticks[at : at + factor]
        yield some[-1]._replace(length=sum(tick.length for tick in some))


def _numbered(stored: MessageState | None, now: MessageState, run: Run) -> Iterator[Span]:
    if run.collapsed:
        known = stored is not None and stored.covered == now.covered and stored.contains(run.last)
        ticks, source = run.tape.ticks, _source(is_known=known)
        yield Span(source, max(run.first, 0), run.last, ticks, is_whole=True)
        return
    pieces = enumerate(run.tape.ticks, run.first)
    by_source = groupby(pieces, lambda piece: stored is not None and stored.contains(piece[0]))
    for known, group in by_source:
        some = list(group)
        ticks = [tick for _, tick in some]
        yield Span(_source(is_known=known), some[0][0], some[-1][0], ticks)


def _unnumbered(run: Run, had: int) -> Iterator[Span]:
    ticks = run.tape.ticks
    for source, some in (("database", ticks[:had]), ("history", ticks[had:])):
        if some:
            yield Span(_source(is_known=source == "database"), None, None, some)


def _source(*, is_known: bool) -> Source:
    return "database" if is_known else "history"
