"""Queries of the inspector: conversations with their state, leases, and the backlog."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rehydrate.core.json import load
from rehydrate.core.positions import Cursor
from rehydrate.errors import BadParameter
from rehydrate.ports import Backlog, LeaseSeen, Listed
from rehydrate.postgres import statements
from rehydrate.postgres.message_rows import as_ms, cursor_time, expanded

if TYPE_CHECKING:
    from rehydrate.postgres.pool import Pool

_LAST = "\U0010ffff"
"""The greatest code point: an id with the prefix p is less than p + this character."""

_SHOWN = 200
"""Characters of the first message that a listing shows."""


class PostgresInspections:
    """The part of `PostgresStore` that implements `rehydrate.ports.Inspections`."""

    _readers: Pool

    async def listed(
        self,
        *,
        limit: int,
        before: Cursor | None,
        query: str | None = None,
        streaming: bool = False,
    ) -> tuple[list[Listed], Cursor | None]:
        """Return conversations that match the filters, and the cursor of the next page."""
        if query is None and not streaming:
            return await self._newest(limit, before)
        after = _after(before)
        first, last = query or "", f"{query or ''}{_LAST}"
        sql = statements.FOUND_STREAMING if streaming else statements.FOUND
        rows = await self._readers.read(sql, limit + 1, first, last, after)
        found = [_listed(row) for row in rows[:limit]]
        older = Cursor("", found[-1].id) if len(rows) > limit else None
        if query and before is None and not streaming:
            own = await self._readers.read(statements.FOUND_ON_CHANNEL, query)
            found = [*map(_listed, own), *found]
        return found, older

    async def _newest(
        self, limit: int, before: Cursor | None
    ) -> tuple[list[Listed], Cursor | None]:
        at, id_ = (None, None) if before is None else (cursor_time(before), before.message_id)
        sql = statements.NEWEST if before is None else statements.NEWEST_BEFORE
        rows = await self._readers.read(sql, limit + 1, *(() if before is None else (at, id_)))
        found = [_listed(row) for row in rows[:limit]]
        older = Cursor(str(found[-1].created_ms), found[-1].id) if len(rows) > limit else None
        return found, older

    async def lease_seen(self, conversation_id: str, message_id: str) -> LeaseSeen | None:
        """Return the stored lease of a message, or None if it has none."""
        rows = await self._readers.read(statements.LEASE_SEEN, conversation_id, message_id)
        if not rows:
            return None
        holder, until, expired, fenced, told_at = rows[0]
        return LeaseSeen(holder, _ms(until), expired, fenced, _ms(told_at))

    async def backlog(self) -> Backlog:
        """Return how much recording and how many unannounced ends are outstanding."""
        (row,) = await self._readers.read(statements.BACKLOG)
        return Backlog(row["open"], row["conversations"], _ms(row["oldest"]), row["untold"])


def _listed(row: Any) -> Listed:
    opens_with, role = None, None
    if row["first_wire"] is not None:
        first = load(expanded(row["first_wire"]))
        opens_with, role = first["text"][:_SHOWN], first["role"]
    return Listed(
        row["id"],
        row["channel"],
        as_ms(row["created_at"]),
        row["open"],
        _ms(row["last_at"]),
        opens_with,
        role,
        row["erased"],
    )


def _ms(at: datetime | None) -> int | None:
    return None if at is None else as_ms(at)


def _after(before: Cursor | None) -> str:
    if before is None:
        return ""
    if before.position:
        raise BadParameter("before", "before is a cursor of another search: start from page one")
    return before.message_id
