"""Read message states from rows, and work out the smallest write that stores a state again.

An open message is stored as a row with its attributes, and chunks. Each write appends chunks and
leaves the row alone; attributes that changed since the row was written are in the newest chunk. So
a write costs as much as was added, however long the response has become. Most of the about
twenty-five attributes have their default, or follow from the wire form, so only the difference from
a base is written. A chunk is rarely read, and only while its response is open. But it goes to the
write-ahead log in addition to the final text, so it is deflated.

A finished message is stored as its wire form, which hydrate sends as it is. The attributes and the
layout of runs that the wire form lacks are deflated with the wire form as dictionary, so the text
that they repeat costs a few bytes. The wire form of a plain answer contains its text twice: as
``text`` and as the text of its only part. The *compact* form leaves out the second copy and begins
with a mark and two offsets, the start and the end of the text. Expanding it joins byte slices and
parses nothing, so hydrate can send stored messages without decoding them.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rehydrate.core import wire as wire_form
from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import MessageState, Owner
from rehydrate.core.json import dump, load
from rehydrate.core.text.versioned_messages import VersionedHeader, VersionedMessage
from rehydrate.postgres import runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_WINDOW_BYTES = 32_768
"""The length of deflate's window; a longer dictionary would not be used."""

_SAME_IDS = [0, {}]  # the change of `recent_change` that changes nothing


@dataclass(slots=True)
class StoredState:
    """A state, and what the store has of it.

    Attributes:
        state: the message, which the caller may fold further.
        base: the attributes in the row; the heads of chunks are differences from them.
        seen: the attributes as they were read or last written.
        columns: the columns of the row that are derived from the state.
        marks: how much of each run is stored.
        next_ordinal: the ordinal of the next chunk.
    """

    state: MessageState
    base: dict[str, Any]
    seen: dict[str, Any]
    columns: tuple[Any, ...]
    marks: list[runs.Mark]
    next_ordinal: int


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


def columns_of(state: MessageState) -> tuple[Any, ...]:
    """Return the columns of the row that are derived from *state* so that queries can use them."""
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
    """Return True if Postgres' type ``text`` can hold *text*: no NUL, no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def as_time(at_ms: int | None) -> datetime | None:
    """Return *at_ms*, in ms since 1970, as a datetime."""
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)


def as_ms(at: datetime) -> int:
    """Return *at* in ms since 1970."""
    return round(at.timestamp() * 1000)


def read_open(
    key: tuple[str, str | None],
    stored_attributes: bytes,
    bodies: Sequence[bytes],
    tapes: Sequence[bytes],
    ordinals: Sequence[int] | None = None,
) -> StoredState:
    """Return a message in progress from its row and its chunks.

    Args:
        key: the id and the position of the message.
        stored_attributes: the attributes in the row.
        bodies: bodies of the chunks, in order.
        tapes: packed timings of the chunks, in the same order.
        ordinals: ordinals of the chunks. None: the result may be folded but not written, which
            saves a copy of all attributes; hydrate reads this way.
    """
    state = MessageState(key[0])
    state.place(key[1])
    restore_attributes(state, load(stored_attributes))
    base = attributes_of(state) if ordinals is not None else {}
    reader = runs.RunReader()
    chunks = load(b"[%b]" % b",".join(map(inflated, bodies)))
    reader.add(chunks, tapes, range(len(tapes)) if ordinals is None else ordinals)
    for *_, head in chunks:
        if head is not None and head[1:] != _SAME_IDS:
            state.restore({"recent": apply_recent_change(state.recent, head[1], head[2])})
    head = chunks[-1][-1] if chunks else None
    if head is not None:
        restore_attributes(state, head[0])
    reader.restore_into(state)
    if ordinals is None:
        return StoredState(state, base, base, (), [], 0)
    return _stored_state(state, base, reader.marks(), max(ordinals, default=-1) + 1)


def read_finished(
    position: str | None, stored_attributes: bytes, stored_wire: bytes, tape: bytes
) -> StoredState:
    """Return a finished message in the state in which it was written, with its runs."""
    inflate = zlib.decompressobj(zdict=stored_wire[-_WINDOW_BYTES:])
    differing, layout = load(inflate.decompress(stored_attributes))
    state = wire_form.state_of(load(expanded(stored_wire)), position=position)
    restore_attributes(state, differing)
    tapes, at = [], 0
    for *_, tape_bytes in layout:
        tapes.append(tape[at : at + tape_bytes])
        at += tape_bytes
    reader = runs.RunReader()
    reader.add(layout, tapes, range(len(tapes)))
    reader.restore_into(state)
    return _stored_state(state, {}, reader.marks(), 0)


def _stored_state(
    state: MessageState, base: dict[str, Any], marks: list[runs.Mark], next_ordinal: int
) -> StoredState:
    return StoredState(state, base, attributes_of(state), columns_of(state), marks, next_ordinal)


def first_write(state: MessageState) -> tuple[RowChange, StoredState]:
    """Return the writes that store the new *state*, and what is stored after them."""
    change = RowChange()
    if state.status in TERMINAL:
        change.row = _finished_row(state)
        return change, _stored_state(state, {}, _marks_of(state), 0)
    change.row = _open_row(state)
    base = attributes_of(state)
    marks = _append(change, state, [], 0)
    return change, _stored_state(state, base, marks, len(change.appended))


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
        return change, _stored_state(state, {}, _marks_of(state), 0)
    if not was_open:
        return first_write(state)
    if columns_of(state) != stored.columns:
        change.row = (*columns_of(state), None, None, None)
    marks = _append(change, state, stored.marks, stored.next_ordinal)
    kept = {ordinal for mark in marks for ordinal in mark.ordinals}
    change.deleted = [o for mark in stored.marks for o in mark.ordinals if o not in kept]
    _write_head(change, state, stored)
    next_ordinal = stored.next_ordinal + len(change.appended)
    return change, _stored_state(state, stored.base, marks, next_ordinal)


def _runs_are_stored(stored: StoredState) -> bool:
    present = stored.state.all_runs()
    marked = {id(mark.run) for mark in stored.marks}
    return (
        len(present) == len(stored.marks)
        and all(id(run) in marked for run in present)
        and all(runs.new_chunk(mark) is None for mark in stored.marks)
    )


def _append(
    change: RowChange, state: MessageState, marks: Sequence[runs.Mark], ordinal: int
) -> list[runs.Mark]:
    """Add the chunks that the store lacks to *change*; return the marks after that write."""
    by_run = {id(mark.run): mark for mark in marks}
    after = []
    for run in state.all_runs():
        kind = runs.kind_of(run, state.tail)
        mark = by_run.get(id(run))
        chunk = runs.full_chunk(run, kind) if mark is None else runs.new_chunk(mark)
        ordinals = () if mark is None else mark.ordinals
        if chunk is not None:
            change.appended.append((ordinal, chunk.body(None), chunk.tape))
            ordinals = (*ordinals, ordinal)
            ordinal += 1
            after.append(runs.mark(run, kind, ordinals))
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


def _marks_of(state: MessageState) -> list[runs.Mark]:
    return [runs.mark(run, runs.kind_of(run, state.tail), (0,)) for run in state.all_runs()]


def _open_row(state: MessageState) -> tuple[Any, ...]:
    fresh = attributes_of(MessageState(state.id))
    return (*columns_of(state), dump(changed_attributes(state, fresh)), None, None)


def _finished_row(state: MessageState) -> tuple[Any, ...]:
    body = wire_form.encode(state)
    stored = compacted(body)
    base = attributes_of(wire_form.state_of(load(body)))
    chunks = [runs.full_chunk(run, runs.kind_of(run, state.tail)) for run in state.all_runs()]
    layout = [[c.first, c.last, c.kind, c.segments, len(c.tape)] for c in chunks]
    deflate = zlib.compressobj(zdict=stored[-_WINDOW_BYTES:])
    encoded = deflate.compress(dump([changed_attributes(state, base), layout]))
    encoded += deflate.flush()
    return (*columns_of(state), encoded, stored, b"".join(chunk.tape for chunk in chunks))


NAMES = (
    "role", "gen", "status", "prompt_id", "owner", "anonymous", "started_ms", "finished_ms",
    "metadata", "usage", "error", "end", "seq", "serial", "last_id", "start_id", "repaired",
    "headless", "inexact", "sealed", "provisional", "pointer", "recent", "steps", "ephemeral",
)  # fmt: skip
"""The attributes of `MessageState` that are stored under their own names.

Runs and position are stored elsewhere. The headers of versioned messages are stored here, under
the key ``cells``; their content is stored with the runs.
"""

_NAMES = frozenset(NAMES)


def attributes_of(state: MessageState) -> dict[str, Any]:
    """Return every stored attribute of *state*; the mutable ones are copied."""
    found = {name: getattr(state, name) for name in NAMES}
    found["recent"] = dict(state.recent)
    found["steps"] = dict(state.steps)
    found["cells"] = _versioned_headers(state)
    return found


def changed_attributes(state: MessageState, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of *state* whose values differ from those in *base*."""
    changed = {name: value for name in NAMES if (value := getattr(state, name)) != base[name]}
    if state.versioned and (headers := _versioned_headers(state)) != base["cells"]:
        changed["cells"] = headers
    elif base["cells"] and not state.versioned:
        changed["cells"] = []
    return changed


def _versioned_headers(state: MessageState) -> list[VersionedHeader]:
    return [cell.header for cell in state.versioned.values()]


def restore_attributes(state: MessageState, stored: Mapping[str, Any]) -> None:
    """Set the attributes of *state* that `changed_attributes` returned, after a round trip through JSON.

    Versioned messages are restored with their headers only; their content comes with the runs.
    Unknown names are ignored, because a newer release may write to the same database.
    """
    known = {name: value for name, value in stored.items() if name in _NAMES}
    if "cells" in stored:
        headers = [
            VersionedHeader(*header[: len(VersionedHeader._fields)]) for header in stored["cells"]
        ]
        known["versioned"] = {header.serial: VersionedMessage(header) for header in headers}
    if known.get("owner") is not None:
        known["owner"] = Owner(*known["owner"])
    state.restore(known)


def recent_change(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[int | None, Any]:
    """Describe how the ordered ids of the overlap margin changed from *before* to *now*.

    The ids behave like a queue: the oldest are dropped, new ones are appended.

    Returns:
        How many ids were dropped at the front, and the ids that were appended. If the change does
        not have that form: None, and all ids of *now*.
    """
    dropped = 0
    for key in before:
        if key in now:
            break
        dropped += 1
    kept = list(before.items())[dropped:]
    order = list(now.items())
    if order[: len(kept)] != kept:  # compares the times too: an id may have left and come back
        return None, dict(now)
    return dropped, dict(order[len(kept) :])


def apply_recent_change(
    before: dict[str, int], dropped: int | None, appended: dict[str, int]
) -> dict[str, int]:
    """Return the ids after a change that `recent_change` described; may modify *before*."""
    if dropped is None:
        return appended
    for key in list(before)[:dropped]:
        del before[key]
    before.update(appended)
    return before


_HEAD = struct.Struct(">cII")
"""The mark, then the start and the end of the text, counted from the mark."""

_MARK = b"~"  # JSON cannot begin with it, so a form that was stored in full is recognised
_TEXT = b'"text":"'
_PART = b'","parts":[{"type":"text","text":"'
_PART_BYTES = len(_PART)
_END = b'"}]'

_DEFLATED = b"\x01"  # JSON cannot begin with it

_RAW = -zlib.MAX_WBITS


def compacted(wire: bytes) -> bytes:
    """Return *wire* with the second copy of its text removed, or unchanged if it has only one."""
    end = wire.find(_PART)
    start = wire.find(_TEXT) + len(_TEXT)
    again = end + _PART_BYTES
    text = wire[start:end]
    if end < start or not wire.startswith(text + _END, again):
        return wire
    head = _HEAD.pack(_MARK, start + _HEAD.size, end + _HEAD.size)
    return b"".join((head, wire[:again], wire[again + len(text) :]))


def expanded(stored: bytes) -> bytes:
    """Return the wire form that was passed to `compacted`."""
    mark, start, end = _HEAD.unpack_from(stored)
    if mark != _MARK:
        return stored
    again = end + _PART_BYTES
    return b"".join((stored[9:again], stored[start:end], stored[again:]))


def deflated(body: bytes) -> bytes:
    """Return the stored form of the JSON *body*: deflated if that makes it smaller."""
    deflate = zlib.compressobj(wbits=_RAW)
    smaller = b"".join((_DEFLATED, deflate.compress(body), deflate.flush()))
    return smaller if len(smaller) < len(body) else body


def inflated(stored: bytes) -> bytes:
    """Return the JSON that was passed to `deflated`."""
    if not stored.startswith(_DEFLATED):
        return stored
    return zlib.decompress(memoryview(stored)[1:], _RAW)
