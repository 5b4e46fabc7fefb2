"""Reads and writes of one conversation inside a transaction that holds its row lock.

All writers of a conversation take this lock, so whatever is read here cannot change before the
block ends. States that were read are remembered: `put` then writes only what was folded into them
since.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import MessageState
from rehydrate.core.json import dump
from rehydrate.core.positions import insertion_position
from rehydrate.core.timeline import Lookup
from rehydrate.core.window import (
    ErasedStream,
    LostInterval,
    Tombstone,
    Watermark,
    erased_mark,
    outside,
)
from rehydrate.errors import BadParameter, Conflict, Fenced, NotFound
from rehydrate.ports import Conversation, Lease
from rehydrate.postgres import statements
from rehydrate.postgres.message_rows import (
    StoredState,
    as_time,
    deflated,
    read_finished,
    read_open,
    storable,
)
from rehydrate.postgres.pool import Session
from rehydrate.postgres.row_changes import RowChange, first_write, next_write
from rehydrate.postgres.store_clock import StoreClock

MAX_HOLES = 100
"""Lost intervals per conversation; beyond that the oldest are merged into one longer interval."""

MAX_MARKS = 10_000
"""Messages that a tombstone lists for each time the conversation was erased."""


class PostgresLockedConversation:
    """`rehydrate.ports.LockedConversation` within one transaction.

    Args:
        session: the transaction.
        conversation: the row, which is locked.
        clock: judges which leases have expired.
        lease_s: the length of a lease, in seconds.
    """

    def __init__(
        self, session: Session, conversation: Conversation, clock: StoreClock, lease_s: float
    ) -> None:
        self.conversation = conversation
        self._clock = clock
        self._lease_s = lease_s
        self._session = session
        self._read_states: dict[str, StoredState] = {}

    async def messages(self, wanted: Collection[str] | Lookup) -> dict[str, MessageState]:
        """Return the stored messages with these ids, or of this lookup, whole, by id."""
        sql, arguments = select_messages(self.conversation.id, wanted)
        rows = await self._session.fetch(sql, *arguments)
        found = [self._read_states.setdefault(row[0], stored_state_of(row)) for row in rows]
        return {stored.state.id: stored.state for stored in found}

    async def open_beside(self, ids: Collection[str], *, most: int) -> int:
        """Return how many stored messages other than *ids* are in progress, at most *most*."""
        rows = await self._session.fetch(
            statements.OTHER_OPEN, self.conversation.id, list(ids), most
        )
        return int(rows[0][0])

    async def lease(self, message_id: str) -> Lease | None:
        """Return the lease of a stored message, or None if it has none."""
        key = (self.conversation.id, checked_id(message_id))
        sent_s = self._clock.now_s()
        rows = await self._session.fetch(statements.LEASE, *key)
        if not rows:
            return None
        holder, until_s, fenced, acked, store_s = rows[0]
        self._clock.sample(store_s, sent_s)
        expired = until_s is None or self._clock.expired(until_s, store_s, self._lease_s)
        return Lease(holder, expired, fenced, acked)

    async def put(self, states: Collection[MessageState]) -> None:
        """Write what was folded into *states*, which were read in this block or are new."""
        await self._assign_positions(states)
        inserts, updates = [], []
        changes: list[tuple[str, RowChange]] = []
        for state in states:
            stored = self._read_states.get(state.id)
            if stored is None or stored.state is not state:
                change, after = first_write(state)
                inserts.append((checked_id(state.id), change.row))
                changes.append((state.id, change))
            else:
                found, after = next_write(stored)
                if found is None:
                    continue
                if found.row is not None:
                    updates.append((state.id, found.row))
                changes.append((state.id, found))
            self._read_states[state.id] = after
        await self._reject_existing([id_ for id_, _ in inserts])
        await self._write_rows(statements.INSERT, inserts)
        await self._write_rows(statements.UPDATE, updates)
        await self._write_chunks(changes)
        for state in states:
            state.mark_stored()

    async def grant(self, message_id: str, holder: str, lease_s: float) -> None:
        """Give *holder* the lease of the stored message for the next *lease_s* seconds."""
        terms = (self.conversation.id, checked_id(message_id), checked_id(holder), float(lease_s))
        for sql in (statements.RENEW, statements.GRANT):
            tag = await self._session.execute(sql, *terms)
            if not tag.endswith(" 0"):
                return
        if await self.lease(message_id) is None:
            raise NotFound(f"message {message_id!r} does not exist")
        raise Fenced(f"response {message_id!r} is being ended by a sweeper")

    async def fence(self, message_id: str, holder: str, for_s: float) -> None:
        """Fence the response: its publisher loses it, and *holder* has *for_s* seconds to end it."""
        terms = (self.conversation.id, checked_id(message_id), checked_id(holder), float(for_s))
        await self._session.execute(statements.FENCE, *terms)

    async def set_stop_acked(self, message_id: str) -> None:
        """Record that Ably acknowledged the ``stop`` of the message; this ends its lease."""
        key = (self.conversation.id, checked_id(message_id))
        await self._session.execute(statements.STOP_ACKED, *key)

    async def move(
        self,
        watermark: Watermark,
        hole: LostInterval | None,
        *,
        erased: Collection[str] = (),
        stream: ErasedStream | None = None,
        covered: LostInterval | None = None,
    ) -> None:
        """Move the watermark, and record the interval that it skips unread."""
        holes, before = outside(self.conversation.holes, covered), self.conversation.tombstone
        if hole is not None:
            holes = merge_intervals(holes, hole)
        tombstone = before
        if tombstone is not None:
            marked = [erased_mark(id_) for id_ in erased if not tombstone.erases(id_)]
            if marked:
                marks = [*marked, *tombstone.erased][:MAX_MARKS]
                tombstone = tombstone._replace(erased=frozenset(marks))
            tombstone = tombstone._replace(stream=stream or tombstone.stream)
        await self._session.execute(
            statements.MOVE_WATERMARK,
            self.conversation.id,
            watermark.serial,
            as_time(watermark.timestamp_ms),
            as_time(watermark.read_at_ms),
            dump(holes).decode(),
            None if tombstone is None or tombstone == before else _encoded(tombstone),
        )
        self.conversation = self.conversation._replace(
            watermark=watermark, holes=holes, tombstone=tombstone
        )

    async def erase(
        self, at_ms: int, ids: Collection[str], stream: ErasedStream | None = None
    ) -> None:
        """Delete the conversation's content; leave a tombstone that covers all up to *at_ms*."""
        conversation_id, old = self.conversation.id, self.conversation.tombstone
        rows = await self._session.fetch(statements.RECENT_MESSAGES, conversation_id, MAX_MARKS)
        # the stored responses first: a stranger may have published any number of other ids
        marks = [erased_mark(id_) for id_ in (*(row[0] for row in rows), *ids)][:MAX_MARKS]
        if old is not None:
            at_ms = max(at_ms, old.timestamp_ms + 1)  # each erasure has a distinct time
            marks += list(old.erased)[:MAX_MARKS]
            stream = stream or old.stream
        tombstone = Tombstone(None, at_ms, frozenset(marks), stream)
        for sql in statements.DELETE_ALL:
            await self._session.execute(sql, conversation_id)
        terms = (conversation_id, _encoded(tombstone), as_time(at_ms))
        await self._session.execute(statements.SET_TOMBSTONE, *terms)
        watermark = Watermark(None, at_ms, at_ms)
        self.conversation = self.conversation._replace(
            tombstone=tombstone, watermark=watermark, holes=(), metadata=None
        )
        self._read_states.clear()

    async def _assign_positions(self, states: Collection[MessageState]) -> None:
        """Give every ended message without a position one at the current time.

        A position comes from a serial. A message that ended without one will not get a serial any
        more, and a finished row must have a position to be part of a page.
        """
        unplaced = [
            state for state in states if state.position is None and state.status in TERMINAL
        ]
        if unplaced:
            now_ms = (await self._session.fetch(statements.NOW_MS))[0][0]
            for index, state in enumerate(unplaced):
                state.place(insertion_position(now_ms, index))

    async def _reject_existing(self, ids: Sequence[str]) -> None:
        if ids:
            rows = await self._session.fetch(statements.EXISTING, self.conversation.id, ids)
            if rows:
                raise Conflict(f"message {rows[0][0]!r} already exists")

    async def _write_rows(self, sql: str, rows: Sequence[tuple[str, Any]]) -> None:
        if rows:
            conversation_id = self.conversation.id
            await self._session.execute_many(
                sql, [(conversation_id, id_, *row) for id_, row in rows]
            )

    async def _write_chunks(self, changes: Sequence[tuple[str, RowChange]]) -> None:
        conversation_id = self.conversation.id
        cleared = [id_ for id_, change in changes if change.cleared]
        if cleared:
            await self._session.execute(statements.CLEAR_CHUNKS, conversation_id, cleared)
        deleted = [(conversation_id, id_, c.deleted) for id_, c in changes if c.deleted]
        if deleted:
            await self._session.execute_many(statements.DELETE_CHUNKS, deleted)
        appended = [
            (conversation_id, id_, ordinal, deflated(body), tape)
            for id_, change in changes
            for ordinal, body, tape in change.appended
        ]
        if appended:
            await self._session.execute_many(statements.APPEND, appended)


def _encoded(tombstone: Tombstone) -> str:
    return dump(tombstone._asdict() | {"erased": sorted(tombstone.erased)}).decode()


def select_messages(
    conversation_id: str, wanted: Collection[str] | Lookup
) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that reads messages with all their content, and its arguments.

    Ids that cannot be stored are left out.
    """
    if not isinstance(wanted, Lookup):
        return statements.STATES, (conversation_id, list(filter(storable, wanted)))
    ids, serials = list(filter(storable, wanted.ids)), list(filter(storable, wanted.serials))
    if not serials and wanted.anonymous_from is None:
        return statements.STATES, (conversation_id, ids)
    from_ = wanted.anonymous_from
    if from_ is None or not storable(from_):
        return statements.STATES_AT_SERIALS, (conversation_id, ids, serials)
    return statements.RELATED, (conversation_id, ids, serials, from_)


def stored_state_of(row: Any) -> StoredState:
    """Return the message of a row of `select_messages`."""
    id_, position, encoded, wire, tape, bodies, tapes, ordinals = row
    if wire is not None:
        return read_finished((id_, position), encoded, wire, tape)
    return read_open((id_, position), encoded, bodies or [], tapes or [], ordinals or [])


def checked_id(text: str) -> str:
    """Return *text* if it can be stored as an id.

    Raises:
        BadParameter: it is not valid Unicode, or contains NUL.
    """
    if not storable(text):
        raise BadParameter("id", "an id must be valid Unicode without NUL characters")
    return text


def merge_intervals(holes: Sequence[LostInterval], hole: LostInterval) -> tuple[LostInterval, ...]:
    """Return *holes* with *hole* added: sorted, overlapping ones merged, at most `MAX_HOLES`."""
    found: list[LostInterval] = []
    for each in sorted([*holes, hole]):
        if found and each.from_ms <= found[-1].to_ms:
            found[-1] = LostInterval(found[-1].from_ms, max(found[-1].to_ms, each.to_ms))
        else:
            found.append(each)
    surplus = max(0, len(found) - MAX_HOLES)
    if surplus:  # report more time as lost than was lost, never less
        found[: surplus + 1] = [LostInterval(found[0].from_ms, found[surplus].to_ms)]
    return tuple(found)
