"""The part of the library's front door through which people look into conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rehydrate.errors import StoreUnavailable
from rehydrate.hydrate.history_window import from_channel
from rehydrate.hydrate.inspect import Inspected, ServiceHealth, checked, inspect

if TYPE_CHECKING:
    from rehydrate.context import Context
    from rehydrate.core.positions import Cursor
    from rehydrate.follow.subscriptions import Subscriptions
    from rehydrate.maintenance.tasks import Maintenance
    from rehydrate.ports import ChannelLog, Listed
    from rehydrate.postgres.store import PostgresStore


class Inspecting:
    """Who looks into conversations, and at what serves them; a base of `rehydrate.History`."""

    _store: PostgresStore
    _channel: ChannelLog
    _ctx: Context
    _following: Subscriptions
    _upkeep: Maintenance

    async def listed(
        self,
        *,
        limit: int = 50,
        before: Cursor | None = None,
        query: str | None = None,
        streaming: bool = False,
    ) -> tuple[list[Listed], Cursor | None]:
        """Conversations, and the cursor of the next page: all of them, the newest first.

        With *query*: those whose ids begin with it, and the one on that channel. With *streaming*:
        those in which a response is open. Both are ordered by id.

        Raises:
            StoreUnavailable: Postgres does not answer.
        """
        return await self._store.listed(
            limit=limit, before=before, query=query, streaming=streaming
        )

    async def inspect(self, conversation_id: str, message_id: str) -> Inspected:
        """One message: the times and sources of its pieces, its publisher, its lease.

        Raises:
            NotFound: the conversation has no such message.
            StoreUnavailable: Postgres does not answer.
        """
        return await inspect(
            self._ctx,
            conversation_id,
            message_id,
            source=await self._following.history_source(conversation_id, None) or from_channel,
        )

    async def health(self) -> ServiceHealth:
        """What this process stands on, and what it is behind with."""
        database = await checked(self._store.ready)
        try:
            backlog = await self._store.backlog()
        except StoreUnavailable:
            backlog = None  # what is wrong is told of the database
        return ServiceHealth(
            database,
            await checked(self._channel.ready),
            backlog,
            self._upkeep.waiting,
            len(self._following),
            self._upkeep.patience_s,
            self._ctx.now_ms(),
        )
