"""Work out the smallest write that stores a message state again.

An open message is stored as a row with its attributes, and chunks (`message_rows`). Each write
appends chunks and leaves the row alone; attributes that changed since the row was written are in the
newest chunk. So a write costs as much as was added, however long the response has become.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rehydrate.core import wire as wire_form
from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import MessageState
from rehydrate.core.json import dump, load
from rehydrate.postgres.message_rows import (
    WINDOW_BYTES,
    Mark,
    StoredState,
    attributes_of,
    changed_attributes,
    columns_of,
    compacted,
    full_chunk,
    kind_of,
    mark_of,
    new_chunk,
    recent_change,
    stored_state,
)


@dataclass(slots=True)
class RowChange:
    """The writes that bring the store up to date with a state.

    Attributes:
        row: the derived columns, then the attributes (None: unchanged), wire form and timings.
            None: the row stays as it is.
        cleared: delete all chunks of the message.
        deleted: ordinals of chunks to delete.
        appended: ordinal, body and timings of chunks to append.
    """

    row: tuple[Any, ...] | None = None
    cleared: bool = False
    deleted: list[int] = field(default_factory=list)
    appended: list[tuple[int, bytes, bytes]] = field(default_factory=list)


def first_write(state: MessageState) -> tuple[RowChange, StoredState]:
    """Return the writes that store the new *state*, and what is stored after them."""
    change = RowChange()
    if state.status in TERMINAL:
        change.row = _finished_row(state)
        return change, stored_state(state, {}, _marks_of(state), 0)
    change.row = _open_row(state)
    base = attributes_of(state)
    marks = _append(change, state, [], 0)
    return change, stored_state(state, base, marks, len(change.appended))


def next_write(stored: StoredState) -> tuple[RowChange | None, StoredState]:
    """Return the writes that store what was folded into a state since it was read or written.

    Returns:
        The writes, or None if the state has not changed; and what is stored after them.
    """
    state = stored.state
    changed = bool(changed_attributes(state, stored.seen)) or columns_of(state) != stored.columns
    was_open = stored.seen["status"] not in TERMINAL
    if not changed and _runs_are_stored(stored):
        return None, stored
    change = RowChange()
    if state.status in TERMINAL:
        change.row, change.cleared = _finished_row(state), was_open
        return change, stored_state(state, {}, _marks_of(state), 0)
    if not was_open:
        return first_write(state)
    if columns_of(state) != stored.columns:
        change.row = (*columns_of(state), None, None, None)
    marks = _append(change, state, stored.marks, stored.next_ordinal)
    kept = {ordinal for mark in marks for ordinal in mark.ordinals}
    change.deleted = [o for mark in stored.marks for o in mark.ordinals if o not in kept]
    _write_head(change, state, stored)
    next_ordinal = stored.next_ordinal + len(change.appended)
    return change, stored_state(state, stored.base, marks, next_ordinal)


def _runs_are_stored(stored: StoredState) -> bool:
    present = stored.state.all_runs()
    marked = {id(mark.run) for mark in stored.marks}
    return (
        len(present) == len(stored.marks)
        and all(id(run) in marked for run in present)
        and all(new_chunk(mark) is None for mark in stored.marks)
    )


def _append(
    change: RowChange, state: MessageState, marks: Sequence[Mark], ordinal: int
) -> list[Mark]:
    """Add the chunks that the store lacks to *change*; return the marks after that write."""
    by_run = {id(mark.run): mark for mark in marks}
    after = []
    for run in state.all_runs():
        kind = kind_of(run, state.tail)
        mark = by_run.get(id(run))
        chunk = full_chunk(run, kind) if mark is None else new_chunk(mark)
        ordinals = () if mark is None else mark.ordinals
        if chunk is not None:
            change.appended.append((ordinal, chunk.body(None), chunk.tape))
            ordinals = (*ordinals, ordinal)
            ordinal += 1
            after.append(mark_of(run, kind, ordinals))
        elif mark is not None:
            after.append(mark)
    return after


def _write_head(change: RowChange, state: MessageState, stored: StoredState) -> None:
    """Write the attributes that differ from the row's into the newest chunk, or into a new one.

    The ids of the overlap margin are the exception: each chunk has their change since the chunk
    before, as all of them would be too long. If chunks are deleted, their changes are lost, so all
    ids are written.
    """
    differing = changed_attributes(state, stored.base)
    differing.pop("recent", None)
    recent: tuple[int | None, Any] = recent_change(stored.seen["recent"], state.recent)
    if change.deleted:
        recent = (None, dict(state.recent))
    head = [differing, *recent]
    if not change.appended:
        body, tape = dump([None, None, None, [], head]), b""
        change.appended.append((stored.next_ordinal, body, tape))
        return
    ordinal, body, tape = change.appended[-1]
    change.appended[-1] = (ordinal, body[: -len(b"null]")] + dump(head) + b"]", tape)


def _marks_of(state: MessageState) -> list[Mark]:
    return [mark_of(run, kind_of(run, state.tail), (0,)) for run in state.all_runs()]


def _open_row(state: MessageState) -> tuple[Any, ...]:
    fresh = attributes_of(MessageState(state.id))
    return (*columns_of(state), dump(changed_attributes(state, fresh)), None, None)


def _finished_row(state: MessageState) -> tuple[Any, ...]:
    body = wire_form.encode(state)
    stored = compacted(body)
    base = attributes_of(wire_form.state_of(load(body)))
    chunks = [full_chunk(run, kind_of(run, state.tail)) for run in state.all_runs()]
    layout = [[c.first, c.last, c.kind, c.segments, len(c.tape)] for c in chunks]
    deflate = zlib.compressobj(zdict=stored[-WINDOW_BYTES:])
    encoded = deflate.compress(dump([changed_attributes(state, base), layout]))
    encoded += deflate.flush()
    return (*columns_of(state), encoded, stored, b"".join(chunk.tape for chunk in chunks))
