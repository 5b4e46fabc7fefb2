"""The store port of the inspector: lists of conversations, leases and the backlog."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rehydrate.core.positions import Cursor


class Listed(NamedTuple):
    """A conversation in a list. Times are ms since 1970.

    Attributes:
        id: the conversation's id.
        channel: its channel.
        created_ms: when its row was created.
        open: how many responses are streaming in it.
        last_ms: when the newest message ended, or the newest open one started.
        opens_with: the beginning of the first message's text; None: that message is very long.
        opens_role: the role of the first message.
        erased: the conversation was erased.
    """

    id: str
    channel: str
    created_ms: int
    open: int
    last_ms: int | None
    opens_with: str | None
    opens_role: str | None
    erased: bool


class LeaseSeen(NamedTuple):
    """A lease, read without its lock; see `Lease`. Times are ms since 1970."""

    holder: str | None
    until_ms: int | None
    expired: bool | None
    fenced: bool
    stop_acked_ms: int | None


class Backlog(NamedTuple):
    """The work that waits for the recorder and the sweepers.

    Attributes:
        open: how many responses are streaming.
        conversations: how many conversations they are in.
        oldest_ms: when the one of these that was read longest ago was read, ms since 1970; None:
            there are none.
        untold: how many ended responses have an overdue ``stop``.
    """

    open: int
    conversations: int
    oldest_ms: int | None
    untold: int


class Inspections(Protocol):
    """The queries of the inspector. Every call may raise `StoreUnavailable`."""

    async def listed(
        self,
        *,
        limit: int,
        before: Cursor | None,
        query: str | None = None,
        streaming: bool = False,
    ) -> tuple[list[Listed], Cursor | None]:
        """Return conversations, the newest first, and the cursor of the next page.

        Args:
            limit: how many.
            before: the cursor of an earlier call.
            query: only those whose id begins with it, ordered by id, after the one whose channel
                it is.
            streaming: only those with an open response, ordered by id.

        Raises:
            BadParameter: *before* is a cursor of another list.
        """
        ...

    async def lease_seen(self, conversation_id: str, message_id: str) -> LeaseSeen | None:
        """Return the lease of a message; None if it never had one."""
        ...

    async def backlog(self) -> Backlog:
        """Return the work that waits for the recorder and the sweepers."""
        ...
