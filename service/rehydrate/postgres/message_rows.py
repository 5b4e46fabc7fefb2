"""The stored form of messages: rows, the chunks of open messages, and how states are read from them.

An open message is stored as a row with its attributes, and chunks. A chunk is what one write added
to one run, as JSON ``[first, last, kind, segments, head]``: the range of seqs that the run then has,
the segments that were added, and (in the last chunk of a write) the attributes that differ from the
message's row. Chunks are appended or deleted, never changed. Most of the about twenty-five
attributes have their default, or follow from the wire form, so only the difference from a base is
stored. A chunk is rarely read, and only while its response is open. But it goes to the write-ahead
log in addition to the final text, so it is deflated. `row_changes` works out what to write.

A finished message is stored as its wire form, which hydrate sends as it is. The attributes and the
layout of runs that the wire form lacks are deflated with the wire form as dictionary, so the text
that they repeat costs a few bytes. The wire form of a plain answer contains its text twice: as
``text`` and as the text of its only part. The *compact* form leaves out the second copy and begins
with a mark and two offsets, the start and the end of the text. Expanding it joins byte slices and
parses nothing, so hydrate can send stored messages without decoding them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rehydrate.core import wire as wire_form
from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import MessageState, Owner
from rehydrate.core.json import dump, load
from rehydrate.core.positions import Cursor
from rehydrate.core.text.content import Run, Segment, Timings
from rehydrate.core.text.versioned_messages import (
    VERSIONED_FIRST,
    VersionedHeader,
    VersionedMessage,
)
from rehydrate.errors import BadParameter
from rehydrate.postgres.changed_rows import with_id

WINDOW_BYTES = 32_768
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
    marks: list[Mark]
    next_ordinal: int


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


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS, _HALF_MS = timedelta(milliseconds=1), timedelta(microseconds=500)


def as_time(at_ms: int | None) -> datetime | None:
    """Return *at_ms*, in ms since 1970, as a datetime."""
    return None if at_ms is None else _EPOCH + timedelta(milliseconds=at_ms)


def cursor_time(before: Cursor) -> datetime:
    """Return the time of a cursor whose position is one, in ms since 1970.

    Raises:
        BadParameter: it is not the cursor of such a listing.
    """
    try:
        return _EPOCH + timedelta(milliseconds=int(before.position))
    except (ValueError, OverflowError) as error:
        raise BadParameter("before", "before must be a cursor from an earlier answer") from error


def as_ms(at: datetime) -> int:
    """Return *at* in ms since 1970."""
    return (at - _EPOCH + _HALF_MS) // _MS


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
    reader = RunReader()
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
    return stored_state(state, base, reader.marks(), max(ordinals, default=-1) + 1)


def read_finished(
    key: tuple[str, str | None], stored_attributes: bytes, stored_wire: bytes, tape: bytes
) -> StoredState:
    """Return a finished message, of that id and position, as it was written, with its runs."""
    inflate = zlib.decompressobj(zdict=stored_wire[-WINDOW_BYTES:])
    differing, layout = load(inflate.decompress(stored_attributes))
    body = with_id(load(expanded(stored_wire)), key[0])
    state = wire_form.state_of(body, position=key[1])
    restore_attributes(state, differing)
    tapes, at = [], 0
    for *_, tape_bytes in layout:
        tapes.append(tape[at : at + tape_bytes])
        at += tape_bytes
    reader = RunReader()
    reader.add(layout, tapes, range(len(tapes)))
    reader.restore_into(state)
    return stored_state(state, {}, reader.marks(), 0)


def stored_state(
    state: MessageState, base: dict[str, Any], marks: list[Mark], next_ordinal: int
) -> StoredState:
    """Return *state* as it is stored now."""
    return StoredState(state, base, attributes_of(state), columns_of(state), marks, next_ordinal)


NAMES = (
    "role", "gen", "status", "prompt_id", "owner", "anonymous", "started_ms", "finished_ms",
    "metadata", "usage", "error", "end", "seq", "serial", "last_id", "start_id", "repaired",
    "headless", "inexact", "sealed", "provisional", "pointer", "recent", "steps", "ephemeral",
    "unreadable_seqs", "edits", "posted",
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


def mark_of(run: Run, kind: int, ordinals: tuple[int, ...]) -> Mark:
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
        return [
            mark_of(run, kind, tuple(rows)) for (_, kind), (run, _, rows) in self._found.items()
        ]


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
