"""What the HTTP room needs of the service behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from rehydrate.core.positions import Cursor
    from rehydrate.follow.subscriptions import Follower
    from rehydrate.hydrate.hydrate import Hydrated
    from rehydrate.ports import Conversation
    from rehydrate.record.catch_up import NewMessage, StoreResult


class Service(Protocol):
    """The acts, bound to a store and a channel. Each call may raise `StoreUnavailable`."""

    async def open(self) -> None:
        """Connect; called by the lifespan of the app before the first request."""
        ...

    async def close(self) -> None:
        """Let go of everything; called by the lifespan after the last request."""
        ...

    async def channel_of(self, conversation_id: str) -> str:
        """The channel of a conversation: its row's, else by template. Cheap when asked again."""
        ...

    async def hydrate(
        self,
        conversation_id: str,
        *,
        until: str | None = None,
        limit: int = 50,
        before: Cursor | None = None,
    ) -> Hydrated:
        """The hydrated conversation; a conversation that nobody has begun has no messages."""
        ...

    def joined(
        self, conversation_id: str, *, limit: int = 50, after: str | None = None
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow the conversation while the block runs, behind the event *after* if that can be."""
        ...

    async def message(self, conversation_id: str, message_id: str) -> bytes:
        """One message in its wire form.

        Raises:
            NotFound: there is none with that id.
        """
        ...

    async def store_messages(
        self, conversation_id: str, messages: Sequence[NewMessage]
    ) -> StoreResult:
        """Store finished messages, all or none; the same again changes nothing.

        Raises:
            Conflict: one is there with other content, or is being published.
        """
        ...

    async def erase(self, conversation_id: str) -> None:
        """Erase all that was said in a conversation until now; again changes nothing."""
        ...

    def hear(self, channels: Collection[str]) -> None:
        """Something was said on *channels*: record their conversations, soon; returns at once.

        Raises:
            Busy: so much waits to be recorded that this was not noted.
        """
        ...

    async def conversations(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Conversations, the newest first, and the cursor of the next page."""
        ...

    async def ready(self) -> dict[str, str]:
        """What it stands on: name to "ok", or to what is wrong but can be lived with.

        Raises:
            Unavailable: it cannot serve.
        """
        ...
