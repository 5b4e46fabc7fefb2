"""The store over Postgres: reads of hydrate, locked writes, and the queries of the sweeper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from rehydrate.core import wire
from rehydrate.core.fold import MessageState
from rehydrate.core.json import load
from rehydrate.core.positions import Cursor
from rehydrate.core.text.content import Timings
from rehydrate.core.timeline import Lookup
from rehydrate.core.window import ErasedStream, LostInterval, Tombstone, Watermark
from rehydrate.errors import Conflict, StoreUnavailable
from rehydrate.ports import UNLIMITED_BYTES, Conversation, Due, Finished, Stored
from rehydrate.postgres import migrations, statements
from rehydrate.postgres.inspections import PostgresInspections
from rehydrate.postgres.locked_conversation import (
    PostgresLockedConversation,
    checked_id,
    select_messages,
    stored_state_of,
)
from rehydrate.postgres.message_rows import (
    as_ms,
    as_time,
    cursor_time,
    expanded,
    read_open,
    storable,
)
from rehydrate.postgres.pool import Pool, Session
from rehydrate.postgres.replays import PostgresReplays, believed
from rehydrate.postgres.store_clock import StoreClock, far_s

POOL_SIZE = 10
_READING = {"enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan"}
"""Planner settings that keep the plan of a page an index scan in index order.

With stale statistics Postgres may estimate that a conversation is short, and collect and sort all
of it. That plan's cost grows with the length of the conversation; an index scan stops after a page.
"""
_ROW, _FINISHED, _OPEN = 0, 1, 2
"""Kinds of rows that `statements.LOAD` returns."""


class PostgresStore(PostgresInspections, PostgresReplays):
    """The store of conversations and messages in Postgres.

    It connects on first use, so it can be opened while Postgres is down. Readers and writers have
    separate pools, so a read never waits behind a writer that waits for a row lock.

    Args:
        url: the database, in any form that libpq accepts.
        pool_size: connections for readers, and again for writers.
        grace_s: the length of a lease, in seconds. For so long after a restart of Postgres, and
            after its clock was set, `due` returns nothing: publishers could not renew their leases
            while it was down, or renewed them by another clock.

    Raises:
        DatabaseUrlError: *url* cannot be parsed.
    """

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, grace_s: float = 15.0) -> None:
        self._grace_s = grace_s
        self._clock = StoreClock()
        self._head: str | None = None
        self._readers = Pool(url, size=pool_size, reading=_READING)
        self._writers = Pool(url, size=pool_size)

    async def open(self) -> None:
        """Create the connection pools. No connection is opened yet."""
        await self._readers.open()
        await self._writers.open()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self._readers.close(), self._writers.close())

    async def conversation(self, conversation_id: str) -> Conversation | None:
        """Return the row of a conversation, without its messages; None if it has none."""
        rows = await self._readers.read(statements.ROW, conversation_id)
        return _conversation(rows[0]) if rows else None

    async def load(
        self,
        conversation_id: str,
        *,
        limit: int,
        before: Cursor | None,
        most_bytes: int = UNLIMITED_BYTES,
    ) -> Stored:
        """Return the row, a page and the open messages, by one statement, hence one snapshot."""
        terms = (conversation_id, limit + 1, most_bytes)
        if before is None:
            rows = await self._readers.read(statements.LOAD, *terms)
        else:
            rows = await self._readers.read(statements.LOAD_BEFORE, *terms, *before)
        conversation, finished, still_open = None, [], []
        for kind, position, id_, body, bodies, tapes in rows:
            if kind == _FINISHED:
                finished.append((position, id_, body))
            elif kind == _OPEN:
                stored = read_open((id_, position), body, bodies or [], tapes or [])
                still_open.append(stored.state)
            else:
                conversation = _loaded(conversation_id, position, id_, body)
        page = _fitting(finished[:limit], most_bytes)
        return Stored(conversation, page, len(finished) > len(page), still_open)

    async def states(
        self, conversation_id: str, wanted: Collection[str] | Lookup
    ) -> list[MessageState]:
        """Return the stored messages with these ids, or of this lookup, with all their content."""
        sql, arguments = select_messages(conversation_id, wanted)
        rows = await self._readers.read(sql, *arguments)
        return [stored_state_of(row).state for row in rows]

    async def message(self, conversation_id: str, message_id: str) -> bytes | None:
        """Return one stored message in its wire form, or None."""
        if not storable(message_id):
            return None
        rows = await self._readers.read(statements.STATES, conversation_id, [message_id])
        if not rows:
            return None
        stored = rows[0]["wire"]
        return wire.encode(stored_state_of(rows[0]).state) if stored is None else expanded(stored)

    @asynccontextmanager
    async def locked(
        self, conversation_id: str, channel: str
    ) -> AsyncIterator[PostgresLockedConversation]:
        """Lock the conversation's row, creating it with *channel* if it does not exist.

        Raises:
            StoreUnavailable: Postgres does not answer, or the row stayed locked for 5 s.
        """
        checked_id(conversation_id)
        async with self._writers.transaction() as session:
            row = await _locked_row(session, conversation_id, checked_id(channel))
            yield PostgresLockedConversation(session, row, self._clock, self._grace_s)

    async def erased(self, ids: Collection[str]) -> dict[str, int]:
        """Return the erased conversations among *ids*, with the time of erasure in ms."""
        rows = await self._readers.read(statements.ERASED, list(ids))
        return {row[0]: row[1] for row in rows}

    async def on_channels(self, channels: Collection[str]) -> dict[str, str]:
        """Return the ids of the conversations on *channels*, by channel."""
        wanted = [channel for channel in channels if storable(channel)]
        rows = await self._readers.read(statements.ON_CHANNELS, wanted)
        return {row[0]: row[1] for row in rows}

    async def overdue(self, *, limit: int, after_s: float, after: str = "") -> list[str]:
        """Return conversations whose history was not read for *after_s* seconds, by id."""
        rows = await self._readers.read(statements.OVERDUE, limit, after_s, after)
        return [row[0] for row in rows]

    async def idle(
        self, *, limit: int, before_ms: int, after: tuple[str, str] = ("", "")
    ) -> tuple[list[Due], tuple[str, str] | None]:
        """Return open responses without a lease whose newest stored event is before *before_ms*."""
        rows = await self._readers.read(statements.IDLE, limit, as_time(before_ms), *after)
        found = [
            Due(*due)
            for *due, tape in rows
            if tape is None or Timings(parts=[tape]).entries[-1].at_ms < before_ms
        ]
        return found, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None

    async def due(self, *, limit: int, after: tuple[str, str] = ("", "")) -> list[Due]:
        """Return responses whose lease has expired and whose ``stop`` was not acknowledged."""
        sent_s, lease_s = self._clock.now_s(), self._grace_s
        rows = await self._readers.read(statements.DUE, limit, far_s(lease_s), *after)
        store_s, started_s, *_ = rows[0]
        if self._clock.sample(store_s, sent_s, started_s) and self._clock.even_for(lease_s):
            return [Due(*due) for _, _, *due in rows if due[0] is not None]
        return []

    async def conversations(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Return conversations, newest first, and the cursor of the next page."""
        if before is None:
            rows = await self._readers.read(statements.CONVERSATIONS, limit + 1)
        else:
            rows = await self._readers.read(
                statements.CONVERSATIONS_BEFORE, limit + 1, cursor_time(before), before.message_id
            )
        found = [_conversation(row) for row in rows[:limit]]
        more = len(rows) > limit and found
        return found, Cursor(str(found[-1].created_ms), found[-1].id) if more else None

    async def claim(
        self, conversation_id: str, holder: str, lease_s: float, passed: Collection[str]
    ) -> bytes | None:
        """Claim the oldest prompt that has no response and no live claim, or one of *holder*."""
        async with self._writers.transaction() as session:
            if not await session.fetch(statements.LOCK, checked_id(conversation_id)):
                return None
            past, far = await believed(self._clock, session, lease_s)
            terms = (holder, lease_s, list(passed), past, far_s(lease_s), far)
            rows = await session.fetch(statements.CLAIM, conversation_id, *terms)
            if not rows:
                return None
            (row,) = await session.fetch(statements.STATES, conversation_id, [rows[0][0]])
        return expanded(row["wire"])

    async def renew_claim(
        self, conversation_id: str, prompt_id: str, holder: str, lease_s: float
    ) -> bool:
        """Extend a claim to *lease_s* seconds from now; return False if *holder* has lost it."""
        async with self._writers.transaction() as session:
            tag = await session.execute(
                statements.RENEW_CLAIM, conversation_id, prompt_id, holder, lease_s
            )
        return tag == "UPDATE 1"

    async def release_claim(self, conversation_id: str, prompt_id: str, holder: str) -> None:
        """Release a claim, so that another agent can take the prompt at once."""
        async with self._writers.transaction() as session:
            await session.execute(statements.RELEASE_CLAIM, conversation_id, prompt_id, holder)

    async def kept_capability(self, key_name: str) -> bytes | None:
        """See `rehydrate.ports.KeptCapabilities`."""
        rows = await self._readers.read(statements.KEY_CAPABILITY, key_name)
        return rows[0][0] if rows else None

    async def keep_capability(self, key_name: str, capability: bytes) -> None:
        """See `rehydrate.ports.KeptCapabilities`."""
        async with self._writers.transaction() as session:
            await session.execute(statements.KEEP_KEY_CAPABILITY, key_name, capability)

    async def ready(self) -> None:
        """Return if Postgres answers and can be written, and this code can run on its schema.

        Raises:
            StoreUnavailable: Postgres does not answer, is read-only, or the schema has to be
                migrated or is too new.
        """
        rows = await self._writers.read(statements.VERSION)
        at, is_read_only = rows[0] if rows else (None, False)
        if is_read_only:
            raise StoreUnavailable("the database is read-only: a standby, or set so")
        # read from files once, in a thread; then no thread is needed, since all may be occupied
        self._head = head = self._head or await asyncio.to_thread(migrations.head)
        if at == head:
            return
        if at is None or at in await asyncio.to_thread(migrations.known_revisions):
            raise StoreUnavailable(f"the schema is at {at}, not at {head}: run rehydrate migrate")
        rows = await self._readers.read(statements.FLOOR)
        if not migrations.compatible(at, rows[0][0] if rows else None):
            raise StoreUnavailable(migrations.too_old_message(at))


def _fitting(newest_first: list[tuple[str, str, bytes | None]], most_bytes: int) -> list[Finished]:
    """Return the newest rows that are within *most_bytes*, and at least one; oldest first."""
    page: list[Finished] = []
    for position, id_, body in newest_first:
        if body is None:
            break
        row = Finished(position, id_, expanded(body))
        most_bytes -= len(row.wire)
        if page and most_bytes < 0:
            break
        page.append(row)
    return page[::-1]


async def _locked_row(session: Session, conversation_id: str, channel: str) -> Conversation:
    rows = await session.fetch(statements.LOCK, conversation_id)
    if not rows:
        # Of two concurrent calls one waits here for the other's commit, and then finds its row.
        await session.execute(statements.CREATE, conversation_id, channel)
        rows = await session.fetch(statements.LOCK, conversation_id)
    if not rows:
        raise Conflict(f"channel {channel!r} belongs to another conversation")
    return _conversation(rows[0])


def _conversation(row: Any) -> Conversation:
    watermark = None
    if row["read_at"] is not None:
        times = (as_ms(row["watermark_at"]), as_ms(row["read_at"]))
        watermark = Watermark(row["watermark_serial"], *times)
    return Conversation(
        row["id"],
        row["channel"],
        as_ms(row["created_at"]),
        watermark,
        _holes(load(row["holes"])),
        _tombstone(row["tombstone"] and load(row["tombstone"])),
        row["metadata"] and load(row["metadata"]),
    )


def _loaded(
    conversation_id: str, channel: str, encoded: str, metadata: bytes | None
) -> Conversation:
    """Return the conversation of a `statements.LOAD` row, whose other columns are one JSON array."""
    created_ms, serial, at_ms, read_ms, holes, tombstone = load(encoded)
    return Conversation(
        conversation_id,
        channel,
        round(created_ms),
        None if read_ms is None else Watermark(serial, round(at_ms), round(read_ms)),
        _holes(holes),
        _tombstone(tombstone),
        metadata and load(metadata),
    )


def _holes(stored: list[list[int]]) -> tuple[LostInterval, ...]:
    return tuple(LostInterval(*each) for each in stored)


def _tombstone(stored: dict[str, Any] | None) -> Tombstone | None:
    if stored is None:
        return None
    stream = stored.get("stream")
    return Tombstone(
        stored["serial"],
        stored["timestamp_ms"],
        frozenset(stored["erased"]),
        ErasedStream(*stream) if stream else None,
    )
