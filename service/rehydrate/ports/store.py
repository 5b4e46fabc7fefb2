"""The port to a store: conversations, their messages, and what is done under their locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rehydrate.ports.claims import PromptClaims
from rehydrate.ports.inspections import Inspections
from rehydrate.ports.replays import ReplayStore

if TYPE_CHECKING:
    from collections.abc import (
        Collection,
    )
    from contextlib import AbstractAsyncContextManager

    from rehydrate.core.fold import MessageState
    from rehydrate.core.positions import Cursor
    from rehydrate.core.timeline import Tombstone
    from rehydrate.core.window import LostInterval, Watermark


class Conversation(NamedTuple):
    """A conversation's row. Times are ms since 1970."""

    id: str
    channel: str
    created_ms: int
    watermark: Watermark | None = None
    holes: tuple[LostInterval, ...] = ()
    tombstone: Tombstone | None = None
    metadata: Any = None


class Finished(NamedTuple):
    """A finished message in its wire form."""

    position: str
    id: str
    wire: bytes


class Stored(NamedTuple):
    """What the store holds of a conversation, from one snapshot.

    ``finished``: one page, oldest first; ``more``: there are older ones; ``open``: every message
    that is not terminal (none for a page further back).
    """

    conversation: Conversation | None
    finished: list[Finished]
    more: bool
    open: list[MessageState]


class Lease(NamedTuple):
    """Who publishes a response.

    ``holder``: a name made up by the publisher. ``expired``: by the store's clock. ``fenced``: a
    sweeper has taken it for dead; it may not write any more, and nobody may take it over.
    ``told``: its ``stop`` was acknowledged by the channel.
    """

    holder: str | None
    expired: bool
    fenced: bool
    told: bool


class Due(NamedTuple):
    """A response whose lease has run out before its end was told."""

    conversation_id: str
    message_id: str
    channel: str


class LockedConversation(Protocol):
    """A conversation whose row is locked until the block ends; all is written together."""

    conversation: Conversation

    async def messages(self, ids: Collection[str | None]) -> dict[str, MessageState]:
        """The stored messages among *ids*, whole (with their runs and tapes).

        None among *ids* stands for the newest anonymous message.
        """
        ...

    async def open_beside(self, ids: Collection[str], *, most: int) -> int:
        """How many stored messages, none of *ids*, are in progress; *most* stands for more."""
        ...

    async def lease(self, message_id: str) -> Lease | None:
        """The lease of a stored message; None if it has none."""
        ...

    async def put(self, states: Collection[MessageState]) -> None:
        """Write what was folded into *states* (read by this `LockedConversation`, or new)."""
        ...

    async def grant(self, message_id: str, holder: str, lease_s: float) -> None:
        """Let *holder* publish the stored message for the next *lease_s* seconds."""
        ...

    async def fence(self, message_id: str, holder: str, for_s: float) -> None:
        """Take the response from its publisher for good; *holder* ends it, within *for_s*."""
        ...

    async def told(self, message_id: str) -> None:
        """Note that the channel has acknowledged the message's ``stop``; ends its lease."""
        ...

    async def move(self, watermark: Watermark, hole: LostInterval | None) -> None:
        """Move the watermark, together with a hole that it passes."""
        ...

    async def erase(self, at_ms: int, ids: Collection[str]) -> None:
        """Delete all of the conversation but a tombstone, which covers all up to *at_ms*.

        It also covers the responses in *ids* and those stored that were open, or ended within a
        day: what is still said of them belongs to what was erased.
        """
        ...


class ResponseStore(Protocol):
    """Postgres, as far as we need it. Every call may raise `StoreUnavailable`."""

    async def load(self, conversation_id: str, *, limit: int, before: Cursor | None) -> Stored:
        """What a hydrate needs, by one statement: the row, a page, and what is open."""
        ...

    async def states(self, conversation_id: str, ids: Collection[str | None]) -> list[MessageState]:
        """The stored messages among *ids*, whole; None stands for the newest anonymous one."""
        ...

    async def message(self, conversation_id: str, message_id: str) -> bytes | None:
        """One stored message in its wire form."""
        ...

    def locked(
        self, conversation_id: str, channel: str
    ) -> AbstractAsyncContextManager[LockedConversation]:
        """Lock the conversation's row; *channel* names a new one's.

        What is written is committed when the block ends, or not at all if it raises.
        """
        ...

    async def erased(self, ids: Collection[str]) -> dict[str, int]:
        """Those of the conversations *ids* that were erased, and up to when, in ms."""
        ...

    async def on_channels(self, channels: Collection[str]) -> dict[str, str]:
        """The conversations whose rows name one of *channels*, by channel."""
        ...

    async def overdue(self, *, limit: int, after_s: float) -> list[str]:
        """Conversations that are open or new, and were not read for *after_s* seconds."""
        ...

    async def idle(self, *, limit: int, after_s: float) -> list[Due]:
        """Open responses that never had a lease, and began more than *after_s* seconds ago."""
        ...

    async def due(self, *, limit: int) -> list[Due]:
        """Responses whose leases have run out, and whose end was not told."""
        ...

    async def conversations(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Conversations, the newest first, and the cursor of the next page."""
        ...

    async def ready(self) -> None:
        """Return if Postgres answers and its schema is at head.

        Raises:
            StoreUnavailable: it does not, or is not.
        """
        ...


class Store(ResponseStore, PromptClaims, Inspections, ReplayStore, Protocol):
    """The whole store: what one adapter implements and `Context` passes on."""
