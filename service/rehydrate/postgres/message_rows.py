"""Message states from rows, and what a state's next write is.

An open message is its row's facts and its chunks; the newest chunk has the facts that differ. A
finished one is its wire form, with the facts and the layout of its runs that the wire form lacks:
deflated with the wire form as dictionary, so that the text in them costs a few bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rehydrate.core import wire as wire_form
from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import MessageState
from rehydrate.core.json import dump
from rehydrate.postgres import attributes as facts
from rehydrate.postgres import runs
from rehydrate.postgres.compact import compacted, expanded, inflated

if TYPE_CHECKING:
    from collections.abc import Sequence

_WINDOW_BYTES = 32_768
"""How far back deflate can refer."""

_SAME_IDS = [0, {}]


@dataclass(slots=True)
class Known:
    """A state, and how much of it is stored.

    Attributes:
        base: the facts that the row has, to which heads of chunks refer.
        seen: the facts as they were read or last written.
        columns: the row's columns that follow from the state.
        next_ordinal: of the next chunk.
    """

    state: MessageState
    base: dict[str, Any]
    seen: dict[str, Any]
    columns: tuple[Any, ...]
    marks: list[runs.Mark]
    next_ordinal: int


@dataclass(slots=True)
class RowChange:
    """What has to be written so that the store has a state as it now is.

    ``row``: the columns, then facts (None: as they are), wire and tape; None: the row stays.
    """

    row: tuple[Any, ...] | None = None
    cleared: bool = False
    deleted: list[int] = field(default_factory=list)
    appended: list[tuple[int, bytes, bytes]] = field(default_factory=list)


def columns_of(state: MessageState) -> tuple[Any, ...]:
    """The columns of a row that say for queries what the state says."""
    return (
        state.role,
        state.status,
        state.gen,
        state.position,
        state.anonymous,
        state.prompt_id if state.prompt_id is not None and storable(state.prompt_id) else None,
        as_time(state.started_ms),
        as_time(state.finished_ms if state.status in TERMINAL else None),
    )


def storable(text: str) -> bool:
    """Whether the type ``text`` can hold *text*."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def as_time(at_ms: int | None) -> datetime | None:
    """*at_ms*, in ms since 1970, as Postgres takes it."""
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)


def as_ms(at: datetime) -> int:
    """What `as_time` made *at* of."""
    return round(at.timestamp() * 1000)


def read_open(
    place: tuple[str, str | None],
    stored_facts: bytes,
    bodies: Sequence[bytes],
    tapes: Sequence[bytes],
    ordinals: Sequence[int] | None = None,
) -> Known:
    """A message that is not terminal: *place* is its id and position.

    Without *ordinals* the result is only to be looked at and folded, not to be written.
    """
    state = MessageState(place[0])
    state.place(place[1])
    facts.apply(state, facts.parsed(stored_facts))
    base = facts.values(state) if ordinals is not None else {}
    reader = runs.RunReader()
    chunks = facts.parsed(b"[%b]" % b",".join(map(inflated, bodies)))
    reader.take(chunks, tapes, range(len(tapes)) if ordinals is None else ordinals)
    for *_, head in chunks:
        if head is not None and head[1:] != _SAME_IDS:
            state.restore({"recent": facts.ids_after(state.recent, head[1], head[2])})
    head = chunks[-1][-1] if chunks else None
    if head is not None:
        facts.apply(state, head[0])
    reader.give(state)
    if ordinals is None:
        return Known(state, base, base, (), [], 0)
    return _known(state, base, reader.marks(), max(ordinals, default=-1) + 1)


def read_finished(
    position: str | None, stored_facts: bytes, stored_wire: bytes, tape: bytes
) -> Known:
    """A terminal message, as it was folded."""
    inflate = zlib.decompressobj(zdict=stored_wire[-_WINDOW_BYTES:])
    told, layout = facts.parsed(inflate.decompress(stored_facts))
    state = wire_form.state_of(facts.parsed(expanded(stored_wire)), position=position)
    facts.apply(state, told)
    tapes, at = [], 0
    for *_, tape_bytes in layout:
        tapes.append(tape[at : at + tape_bytes])
        at += tape_bytes
    reader = runs.RunReader()
    reader.take(layout, tapes, range(len(tapes)))
    reader.give(state)
    return _known(state, {}, reader.marks(), 0)


def _known(
    state: MessageState, base: dict[str, Any], marks: list[runs.Mark], next_ordinal: int
) -> Known:
    return Known(state, base, facts.values(state), columns_of(state), marks, next_ordinal)


def first_write(state: MessageState) -> tuple[RowChange, Known]:
    """How to store a new *state*."""
    change = RowChange()
    if state.status in TERMINAL:
        change.row = _finished_row(state)
        return change, _known(state, {}, _marked(state), 0)
    change.row = _open_row(state)
    base = facts.values(state)
    marks = _append(change, state, [], 0)
    return change, _known(state, base, marks, len(change.appended))


def next_write(known: Known) -> tuple[RowChange | None, Known]:
    """How to store what came to a state since it was read or written; None: nothing did."""
    state = known.state
    told = bool(facts.differing(state, known.seen)) or columns_of(state) != known.columns
    was_open = known.seen["status"] not in TERMINAL
    if not told and _as_marked(known):
        return None, known
    change = RowChange()
    if state.status in TERMINAL:
        change.row, change.cleared = _finished_row(state), was_open
        return change, _known(state, {}, _marked(state), 0)
    if not was_open:
        return first_write(state)
    if columns_of(state) != known.columns:
        change.row = (*columns_of(state), None, None, None)
    marks = _append(change, state, known.marks, known.next_ordinal)
    kept = {ordinal for mark in marks for ordinal in mark.ordinals}
    change.deleted = [o for mark in known.marks for o in mark.ordinals if o not in kept]
    next_ordinal = known.next_ordinal + len(change.appended)
    _put_head(change, state, known)
    return change, _known(state, known.base, marks, max(next_ordinal, known.next_ordinal + 1))


def _as_marked(known: Known) -> bool:
    present = known.state.all_runs()
    marked = {id(mark.run) for mark in known.marks}
    return (
        len(present) == len(known.marks)
        and all(id(run) in marked for run in present)
        and all(runs.since(mark) is None for mark in known.marks)
    )


def _append(
    change: RowChange, state: MessageState, marks: Sequence[runs.Mark], ordinal: int
) -> list[runs.Mark]:
    """Add to *change* the chunks that *state* lacks in the store; return its marks after that."""
    by_run = {id(mark.run): mark for mark in marks}
    after = []
    for run in state.all_runs():
        kind = runs.kind_of(run, state.tail)
        mark = by_run.get(id(run))
        chunk = runs.whole(run, kind) if mark is None else runs.since(mark)
        ordinals = () if mark is None else mark.ordinals
        if chunk is not None:
            change.appended.append((ordinal, chunk.body(None), chunk.tape))
            ordinals = (*ordinals, ordinal)
            ordinal += 1
            after.append(runs.mark(run, kind, ordinals))
        elif mark is not None:
            after.append(mark)
    return after


def _put_head(change: RowChange, state: MessageState, known: Known) -> None:
    """Put the facts that are not as in the row into the newest chunk, or one of their own.

    Where chunks are deleted, what they said of the ids of the margin goes with them.
    """
    told = facts.differing(state, known.base)
    told.pop("recent", None)
    gone: tuple[int | None, Any] = facts.ids_since(known.seen["recent"], state.recent)
    if change.deleted:
        gone = (None, dict(state.recent))
    head = [told, *gone]
    if not change.appended:
        body, tape = dump([None, None, None, [], head]), b""
        change.appended.append((known.next_ordinal, body, tape))
        return
    ordinal, body, tape = change.appended[-1]
    change.appended[-1] = (ordinal, body[: -len(b"null]")] + dump(head) + b"]", tape)


def _marked(state: MessageState) -> list[runs.Mark]:
    return [runs.mark(run, runs.kind_of(run, state.tail), (0,)) for run in state.all_runs()]


def _open_row(state: MessageState) -> tuple[Any, ...]:
    fresh = facts.values(MessageState(state.id))
    return (*columns_of(state), dump(facts.differing(state, fresh)), None, None)


def _finished_row(state: MessageState) -> tuple[Any, ...]:
    body = wire_form.encode(state)
    stored = compacted(body)
    base = facts.values(wire_form.state_of(facts.parsed(body)))
    chunks = [runs.whole(run, runs.kind_of(run, state.tail)) for run in state.all_runs()]
    layout = [[c.first, c.last, c.kind, c.said, len(c.tape)] for c in chunks]
    deflate = zlib.compressobj(zdict=stored[-_WINDOW_BYTES:])
    told = deflate.compress(dump([facts.differing(state, base), layout])) + deflate.flush()
    return (*columns_of(state), told, stored, b"".join(chunk.tape for chunk in chunks))
