"""The port to what admins look at: conversations found, leases, what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rehydrate.core.positions import Cursor


class Listed(NamedTuple):
    """A conversation of a list. Times are ms since 1970.

    ``open``: how many responses stream in it. ``last_ms``: when the newest message ended, or the
    newest open one began. ``opens_with``, ``opens_role``: the beginning of the first message's
    text, and whose it is, unless that message is very long. ``erased``: it has been.
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
    """A lease as whoever only looks sees it; see `Lease`. Times are ms since 1970."""

    holder: str | None
    until_ms: int | None
    expired: bool | None
    fenced: bool
    told_ms: int | None


class Backlog(NamedTuple):
    """What waits for the recorder or a sweeper.

    ``open``: responses that stream, in so many ``conversations``. ``oldest_ms``: when the one of
    these that was read longest ago was read; None: there is none. ``untold``: ends that are overdue.
    """

    open: int
    conversations: int
    oldest_ms: int | None
    untold: int


class Inspections(Protocol):
    """What people look at who look into conversations. Every call may raise `StoreUnavailable`."""

    async def listed(
        self,
        *,
        limit: int,
        before: Cursor | None,
        query: str | None = None,
        streaming: bool = False,
    ) -> tuple[list[Listed], Cursor | None]:
        """Conversations, and the cursor of the next page: all of them, the newest first.

        With *query*: those whose ids begin with it, by id, and first the one on that channel. With
        *streaming*: those in which a response is open, by id.

        Raises:
            BadParameter: *before* is of another list.
        """
        ...

    async def lease_seen(self, conversation_id: str, message_id: str) -> LeaseSeen | None:
        """The lease of a message; None if it never had one."""
        ...

    async def backlog(self) -> Backlog:
        """What waits to be read, or told."""
        ...
