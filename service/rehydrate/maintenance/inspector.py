"""What the inspector shows: conversations, single messages, and the health of the service."""

from __future__ import annotations

from rehydrate.context import Context
from rehydrate.core.positions import Cursor
from rehydrate.errors import StoreUnavailable
from rehydrate.follow.subscriptions import Subscriptions
from rehydrate.hydrate.history_window import CHANNEL
from rehydrate.hydrate.inspect import Inspected, ServiceHealth, checked, inspect
from rehydrate.maintenance.tasks import Maintenance
from rehydrate.ports import Listed


class ServiceInspector:
    """The use cases behind the inspection routes.

    Args:
        ctx: the adapters and limits.
        subscriptions: the conversations that are followed here.
        maintenance: the background tasks.
    """

    def __init__(
        self, ctx: Context, subscriptions: Subscriptions, maintenance: Maintenance
    ) -> None:
        self._ctx = ctx
        self._subscriptions = subscriptions
        self._maintenance = maintenance

    async def listed(
        self,
        *,
        limit: int = 50,
        before: Cursor | None = None,
        query: str | None = None,
        streaming: bool = False,
    ) -> tuple[list[Listed], Cursor | None]:
        """Return conversations, the newest first, and the cursor of the next page.

        Args:
            limit: how many.
            before: the cursor of an earlier call.
            query: only those whose id begins with it, or whose channel it is, ordered by id.
            streaming: only those with an open response, ordered by id.

        Raises:
            StoreUnavailable: Postgres does not answer.
        """
        return await self._ctx.store.listed(
            limit=limit, before=before, query=query, streaming=streaming
        )

    async def inspect(self, conversation_id: str, message_id: str) -> Inspected:
        """Return one message with the times and sources of its pieces, its publisher and lease.

        Raises:
            NotFound: the conversation has no such message.
            StoreUnavailable: Postgres does not answer.
        """
        received = await self._subscriptions.history_source(conversation_id, None)
        return await inspect(self._ctx, conversation_id, message_id, source=received or CHANNEL)

    async def health(self) -> ServiceHealth:
        """Return the state of the database, the channel, the backlog and this process."""
        database = await checked(self._ctx.store.ready)
        try:
            backlog = await self._ctx.store.backlog()
        except StoreUnavailable:
            backlog = None  # the check of the database has the reason
        return ServiceHealth(
            database,
            await checked(self._ctx.channel.ready),
            backlog,
            self._maintenance.waiting,
            len(self._subscriptions),
            self._maintenance.patience_s,
            self._ctx.now_ms(),
        )
