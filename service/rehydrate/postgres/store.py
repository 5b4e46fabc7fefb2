"""The store port over Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from rehydrate.core import wire
from rehydrate.core.fold import MessageState
from rehydrate.core.positions import Cursor
from rehydrate.core.timeline import Tombstone
from rehydrate.core.window import LostInterval, Watermark
from rehydrate.errors import BadParameter, Conflict, StoreUnavailable
from rehydrate.ports import Conversation, Due, Finished, Stored
from rehydrate.postgres import migrations, statements
from rehydrate.postgres.attributes import parsed
from rehydrate.postgres.compact import expanded
from rehydrate.postgres.inspections import PostgresInspections
from rehydrate.postgres.locked_conversation import (
    PostgresLockedConversation,
    checked_id,
    known_of,
    whole_messages,
)
from rehydrate.postgres.message_rows import as_ms, as_time, read_open, storable
from rehydrate.postgres.pool import Pool, Session
from rehydrate.postgres.replays import PostgresReplays

POOL_SIZE = 10
_READING = {"enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan"}
"""A page is read in the order of its index, whatever the statistics say of a conversation: a plan
that collects and sorts costs as much as the conversation is long."""
_ROW, _FINISHED, _OPEN = 0, 1, 2
"""Kinds of rows that a load gives."""


class PostgresStore(PostgresInspections, PostgresReplays):
    """Conversations and messages in the Postgres at *url*, which may have any form libpq takes.

    It connects when it is first asked something, so it opens also while Postgres is away. Readers
    and writers have *pool_size* connections each: nobody who reads waits behind a lock. After a
    restart of Postgres nothing is `due` for *grace_s* seconds, the time of a lease.

    Raises:
        DatabaseUrlError: *url* cannot be read.
    """

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, grace_s: float = 15.0) -> None:
        self._grace_s = grace_s
        self._readers = Pool(url, size=pool_size, reading=_READING)
        self._writers = Pool(url, size=pool_size)

    async def open(self) -> None:
        """Make ready to be asked."""
        await self._readers.open()
        await self._writers.open()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self._readers.close(), self._writers.close())

    async def conversation(self, conversation_id: str) -> Conversation | None:
        """Return the row of a conversation, without its messages; None if it has none."""
        rows = await self._readers.read(statements.ROW, conversation_id)
        return _conversation(rows[0]) if rows else None

    async def load(self, conversation_id: str, *, limit: int, before: Cursor | None) -> Stored:
        """What a hydrate needs, by one statement: the row, a page, and what is open."""
        if before is None:
            rows = await self._readers.read(statements.LOAD, conversation_id, limit + 1)
        else:
            rows = await self._readers.read(
                statements.LOAD_BEFORE, conversation_id, limit + 1, *before
            )
        conversation, finished, still_open = None, [], []
        for kind, position, id_, body, bodies, tapes in rows:
            if kind == _FINISHED:
                finished.append(Finished(position, id_, expanded(body)))
            elif kind == _OPEN:
                known = read_open((id_, position), body, bodies or [], tapes or [])
                still_open.append(known.state)
            else:
                conversation = _loaded(conversation_id, position, id_, body)
        more = len(finished) > limit
        return Stored(conversation, finished[:limit][::-1], more, still_open)

    async def states(self, conversation_id: str, ids: Collection[str | None]) -> list[MessageState]:
        """The stored messages among *ids*, whole; None stands for the newest anonymous one."""
        rows = await self._readers.read(*whole_messages(conversation_id, ids))
        return [known_of(row).state for row in rows]

    async def message(self, conversation_id: str, message_id: str) -> bytes | None:
        """One stored message in its wire form."""
        if not storable(message_id):
            return None
        rows = await self._readers.read(statements.STATES, conversation_id, [message_id])
        if not rows:
            return None
        stored = rows[0]["wire"]
        return wire.encode(known_of(rows[0]).state) if stored is None else expanded(stored)

    @asynccontextmanager
    async def locked(
        self, conversation_id: str, channel: str
    ) -> AsyncIterator[PostgresLockedConversation]:
        """Lock the conversation's row; *channel* names a new one's.

        What is written is committed when the block ends, or not at all if it raises.

        Raises:
            Conflict: another conversation has that channel.
            StoreUnavailable: Postgres does not answer, or the row stayed locked for 5 s.
        """
        checked_id(conversation_id)
        async with self._writers.transaction() as session:
            row = await _locked_row(session, conversation_id, checked_id(channel))
            yield PostgresLockedConversation(session, row)

    async def erased(self, ids: Collection[str]) -> dict[str, int]:
        """Those of the conversations *ids* that were erased, and up to when, in ms."""
        rows = await self._readers.read(statements.ERASED, list(ids))
        return {row[0]: row[1] for row in rows}

    async def on_channels(self, channels: Collection[str]) -> dict[str, str]:
        """The conversations whose rows name one of *channels*, by channel."""
        wanted = [channel for channel in channels if storable(channel)]
        rows = await self._readers.read(statements.ON_CHANNELS, wanted)
        return {row[0]: row[1] for row in rows}

    async def overdue(self, *, limit: int, after_s: float) -> list[str]:
        """Conversations that are open or new, and were not read for *after_s* seconds."""
        rows = await self._readers.read(statements.OVERDUE, limit, after_s)
        return [row[0] for row in rows]

    async def idle(self, *, limit: int, after_s: float) -> list[Due]:
        """Open responses that never had a lease, and began more than *after_s* seconds ago."""
        rows = await self._readers.read(statements.IDLE, limit, after_s)
        return [Due(*row) for row in rows]

    async def due(self, *, limit: int) -> list[Due]:
        """Responses whose leases have run out, and whose end was not told."""
        rows = await self._readers.read(statements.DUE, limit, self._grace_s)
        return [Due(*row) for row in rows]

    async def conversations(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Conversations, the newest first, and the cursor of the next page."""
        if before is None:
            rows = await self._readers.read(statements.CONVERSATIONS, limit + 1)
        else:
            rows = await self._readers.read(
                statements.CONVERSATIONS_BEFORE, limit + 1, _created(before), before.message_id
            )
        found = [_conversation(row) for row in rows[:limit]]
        more = len(rows) > limit and found
        return found, Cursor(str(found[-1].created_ms), found[-1].id) if more else None

    async def claim(
        self, conversation_id: str, holder: str, lease_s: float, passed: Collection[str]
    ) -> bytes | None:
        """Claim the first prompt without a response; see the port."""
        async with self._writers.transaction() as session:
            if not await session.fetch(statements.LOCK, checked_id(conversation_id)):
                return None
            rows = await session.fetch(
                statements.CLAIM, conversation_id, holder, lease_s, list(passed)
            )
        return await self.message(conversation_id, rows[0][0]) if rows else None

    async def renew_claim(
        self, conversation_id: str, prompt_id: str, holder: str, lease_s: float
    ) -> bool:
        """Keep a claim; see the port."""
        async with self._writers.transaction() as session:
            tag = await session.execute(
                statements.RENEW_CLAIM, conversation_id, prompt_id, holder, lease_s
            )
        return tag == "UPDATE 1"

    async def release_claim(self, conversation_id: str, prompt_id: str, holder: str) -> None:
        """Give a claim back."""
        async with self._writers.transaction() as session:
            await session.execute(statements.RELEASE_CLAIM, conversation_id, prompt_id, holder)

    async def ready(self) -> None:
        """Return if Postgres answers and its schema is at head, or newer and only added to.

        Raises:
            StoreUnavailable: it does not, or is not.
        """
        rows = await self._readers.read(statements.VERSION)
        at = rows[0][0] if rows else None
        head = await asyncio.to_thread(migrations.head)
        if at == head:
            return
        if at is None or at in await asyncio.to_thread(migrations.known):
            raise StoreUnavailable(f"the schema is at {at}, not at {head}: rehydrate migrate")
        rows = await self._readers.read(statements.FLOOR)
        if not migrations.fits(at, rows[0][0] if rows else None):
            raise StoreUnavailable(migrations.too_old(at))


async def _locked_row(session: Session, conversation_id: str, channel: str) -> Conversation:
    rows = await session.fetch(statements.LOCK, conversation_id)
    if not rows:
        # two at once: one of them waits here for the other, and then finds its row
        await session.execute(statements.CREATE, conversation_id, channel)
        rows = await session.fetch(statements.LOCK, conversation_id)
    if not rows:
        raise Conflict(f"channel {channel!r} is another conversation's")
    return _conversation(rows[0])


def _created(before: Cursor) -> datetime | None:
    try:
        return as_time(int(before.position))
    except (ValueError, OverflowError) as error:
        raise BadParameter("before", "before is a cursor of an earlier answer") from error


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
        _holes(parsed(row["holes"].encode())),
        _tombstone(row["tombstone"] and parsed(row["tombstone"].encode())),
        row["metadata"] and parsed(row["metadata"]),
    )


def _loaded(conversation_id: str, channel: str, told: str, metadata: bytes | None) -> Conversation:
    """The row as `statements.LOAD` tells it: all but the channel and the metadata as JSON."""
    created_ms, serial, at_ms, read_ms, holes, tombstone = parsed(told.encode())
    return Conversation(
        conversation_id,
        channel,
        round(created_ms),
        None if read_ms is None else Watermark(serial, round(at_ms), round(read_ms)),
        _holes(holes),
        _tombstone(tombstone),
        metadata and parsed(metadata),
    )


def _holes(stored: list[list[int]]) -> tuple[LostInterval, ...]:
    return tuple(LostInterval(*each) for each in stored)


def _tombstone(stored: dict[str, Any] | None) -> Tombstone | None:
    if stored is None:
        return None
    return Tombstone(stored["serial"], stored["timestamp_ms"], frozenset(stored["erased"]))
