"""A conversation whose row is locked: what is read here stays so until the block ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import MessageState
from rehydrate.core.json import dump
from rehydrate.core.positions import insertion_position, serial_time_ms
from rehydrate.core.timeline import Tombstone, erased_mark
from rehydrate.core.window import LostInterval, Watermark
from rehydrate.errors import BadParameter, Conflict, Fenced, NotFound
from rehydrate.ports import Conversation, Lease
from rehydrate.postgres import statements
from rehydrate.postgres.compact import deflated
from rehydrate.postgres.message_rows import (
    Known,
    RowChange,
    as_time,
    first_write,
    next_write,
    read_finished,
    read_open,
    storable,
)
from rehydrate.postgres.pool import Session

MAX_HOLES = 100
"""More of them become fewer and longer ones, which say the same less exactly."""


MAX_MARKS = 10_000
"""How many erased responses a tombstone names, of each time it was erased."""


class PostgresLockedConversation:
    """`Held`, in one transaction."""

    def __init__(self, session: Session, conversation: Conversation) -> None:
        self.conversation = conversation
        self._session = session
        self._known: dict[str, Known] = {}

    async def messages(self, ids: Collection[str | None]) -> dict[str, MessageState]:
        """The stored messages among *ids*, whole; None stands for the newest anonymous one."""
        rows = await self._session.fetch(*whole_messages(self.conversation.id, ids))
        found = [self._known.setdefault(row[0], known_of(row)) for row in rows]
        return {known.state.id: known.state for known in found}

    async def open_beside(self, ids: Collection[str], *, most: int) -> int:
        """How many stored messages, none of *ids*, are in progress; *most* stands for more."""
        rows = await self._session.fetch(
            statements.OPEN_BESIDE, self.conversation.id, list(ids), most
        )
        return int(rows[0][0])

    async def lease(self, message_id: str) -> Lease | None:
        """The lease of a stored message; None if it has none."""
        key = (self.conversation.id, checked_id(message_id))
        rows = await self._session.fetch(statements.LEASE, *key)
        return Lease(*rows[0]) if rows else None

    async def put(self, states: Collection[MessageState]) -> None:
        """Write what was folded into *states* (read by this `Held`, or new).

        Raises:
            BadParameter: an id cannot be stored.
            Conflict: a new message is there already.
        """
        await self._place(states)
        inserts, updates = [], []
        changes: list[tuple[str, RowChange]] = []
        for state in states:
            known = self._known.get(state.id)
            if known is None or known.state is not state:
                change, after = first_write(state)
                inserts.append((checked_id(state.id), change.row))
                changes.append((state.id, change))
            else:
                found, after = next_write(known)
                if found is None:
                    continue
                if found.row is not None:
                    updates.append((state.id, found.row))
                changes.append((state.id, found))
            self._known[state.id] = after
        await self._refuse_known([id_ for id_, _ in inserts])
        await self._write_rows(statements.INSERT, inserts)
        await self._write_rows(statements.UPDATE, updates)
        await self._write_chunks(changes)
        for state in states:
            state.mark_stored()

    async def grant(self, message_id: str, holder: str, lease_s: float) -> None:
        """Let *holder* publish the stored message for the next *lease_s* seconds.

        Raises:
            Fenced: its publisher was taken for dead; nobody may publish it any more.
            NotFound: it is not stored.
        """
        terms = (self.conversation.id, checked_id(message_id), checked_id(holder), float(lease_s))
        for sql in (statements.RENEW, statements.GRANT):
            tag = await self._session.execute(sql, *terms)
            if not tag.endswith(" 0"):
                return
        if await self.lease(message_id) is None:
            raise NotFound(f"there is no message {message_id!r} to publish")
        raise Fenced(f"response {message_id!r} is being ended")

    async def fence(self, message_id: str, holder: str, for_s: float) -> None:
        """Take the response from its publisher for good; *holder* ends it, within *for_s*."""
        terms = (self.conversation.id, checked_id(message_id), checked_id(holder), float(for_s))
        await self._session.execute(statements.FENCE, *terms)

    async def told(self, message_id: str) -> None:
        """Note that the channel has acknowledged the message's ``stop``; ends its lease."""
        key = (self.conversation.id, checked_id(message_id))
        await self._session.execute(statements.TOLD, *key)

    async def move(self, watermark: Watermark, hole: LostInterval | None) -> None:
        """Move the watermark, together with a hole that it passes."""
        holes = self.conversation.holes if hole is None else united(self.conversation.holes, hole)
        await self._session.execute(
            statements.MOVE,
            self.conversation.id,
            watermark.serial,
            as_time(watermark.timestamp_ms),
            as_time(watermark.read_at_ms),
            dump(holes).decode(),
        )
        self.conversation = self.conversation._replace(watermark=watermark, holes=holes)

    async def erase(self, at_ms: int, ids: Collection[str]) -> None:
        """Delete all but a tombstone, which covers all up to *at_ms* and the responses *ids*."""
        conversation_id, old = self.conversation.id, self.conversation.tombstone
        rows = await self._session.fetch(statements.LATELY, conversation_id, MAX_MARKS)
        marks = [erased_mark(id_) for id_ in (*ids, *(row[0] for row in rows))][:MAX_MARKS]
        if old is not None:
            at_ms = max(at_ms, old.timestamp_ms)
            marks += list(old.erased)[:MAX_MARKS]
        tombstone = Tombstone(None, at_ms, frozenset(marks))
        for sql in statements.EMPTY:
            await self._session.execute(sql, conversation_id)
        told = {"serial": None, "timestamp_ms": at_ms, "erased": sorted(tombstone.erased)}
        terms = (conversation_id, dump(told).decode(), as_time(at_ms))
        await self._session.execute(statements.BURY, *terms)
        watermark = Watermark(None, at_ms, at_ms)
        self.conversation = self.conversation._replace(
            tombstone=tombstone, watermark=watermark, holes=(), metadata=None
        )
        self._known.clear()

    async def _place(self, states: Collection[MessageState]) -> None:
        """Give what has ended a position: there is nothing left that could tell it one."""
        lost = [state for state in states if state.position is None and state.status in TERMINAL]
        if lost:
            now_ms = (await self._session.fetch(statements.NOW_MS))[0][0]
            for index, state in enumerate(lost):
                state.place(insertion_position(now_ms, index))

    async def _refuse_known(self, ids: Sequence[str]) -> None:
        if ids:
            rows = await self._session.fetch(statements.EXISTING, self.conversation.id, ids)
            if rows:
                raise Conflict(f"message {rows[0][0]!r} is there already")

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


def whole_messages(conversation_id: str, ids: Collection[str | None]) -> tuple[str, str, list[str]]:
    """The statement, and its arguments, that reads whole messages.

    What cannot be the id of anything stored is left out. A serial stands for the message that
    begins with it, too: what is appended need not say any more whose it is.
    """
    named = [id_ for id_ in ids if id_ is not None and storable(id_)]
    if any(serial_time_ms(id_) is not None for id_ in named):
        by_serial = statements.STATES_BY_SERIAL, statements.STATES_BY_SERIAL_AND_ANONYMOUS
        return by_serial[None in ids], conversation_id, named
    sql = statements.STATES_AND_ANONYMOUS if None in ids else statements.STATES
    return sql, conversation_id, named


def known_of(row: Any) -> Known:
    """A message as `whole_messages` reads it."""
    id_, position, facts, wire, tape, bodies, tapes, ordinals = row
    if wire is not None:
        return read_finished(position, facts, wire, tape)
    return read_open((id_, position), facts, bodies or [], tapes or [], ordinals or [])


def checked_id(text: str) -> str:
    """*text*, if it can be stored.

    Raises:
        BadParameter: it cannot: it is no valid Unicode, or holds a NUL.
    """
    if not storable(text):
        raise BadParameter("id", "an id is valid Unicode without control characters")
    return text


def united(holes: Sequence[LostInterval], hole: LostInterval) -> tuple[LostInterval, ...]:
    """*holes* and *hole*, in order, as few as say the same, and at most `MAX_HOLES`."""
    found: list[LostInterval] = []
    for each in sorted([*holes, hole]):
        if found and each.from_ms <= found[-1].to_ms:
            found[-1] = LostInterval(found[-1].from_ms, max(found[-1].to_ms, each.to_ms))
        else:
            found.append(each)
    surplus = max(0, len(found) - MAX_HOLES)
    if surplus:
        found[: surplus + 1] = [LostInterval(found[0].from_ms, found[surplus].to_ms)]
    return tuple(found)
