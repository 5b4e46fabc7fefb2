"""The protocol that the HTTP API requires of the service behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from rehydrate.core.positions import Cursor
    from rehydrate.follow.subscriptions import Follower
    from rehydrate.hydrate.hydrate import Hydrated
    from rehydrate.ports import Conversation
    from rehydrate.record.import_messages import NewMessage, StoreResult


class ReaderService(Protocol):
    """What the two hot routes call for every request, without a facade in between."""

    @property
    def channel_of(self) -> Callable[[str], Awaitable[str]]:
        """Return the channel of a conversation: stored, or by the template. Cached."""
        ...

    async def hydrate(
        self,
        conversation_id: str,
        *,
        until: str | None = None,
        limit: int = 50,
        before: Cursor | None = None,
    ) -> Hydrated:
        """Return the hydrated conversation; one that does not exist has no messages."""
        ...

    def joined(
        self, conversation_id: str, *, limit: int = 50, after: str | None = None
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow the conversation while the block runs, from the event *after* on if possible."""
        ...


class Service(Protocol):
    """The use cases behind the routes. Each call may raise `StoreUnavailable`."""

    @property
    def readers(self) -> ReaderService:
        """The use cases of readers."""
        ...

    async def open(self) -> None:
        """Connect; called by the lifespan of the app before the first request."""
        ...

    async def close(self) -> None:
        """Release all resources; called by the lifespan after the last request."""
        ...

    async def message(self, conversation_id: str, message_id: str) -> bytes:
        """Return one message in its wire form.

        Raises:
            NotFound: the message does not exist.
        """
        ...

    async def store_messages(
        self, conversation_id: str, messages: Sequence[NewMessage]
    ) -> StoreResult:
        """Store finished messages, all or none. Idempotent.

        Raises:
            Conflict: a message exists with other content, or is being published.
        """
        ...

    async def erase(self, conversation_id: str) -> None:
        """Permanently erase all messages published so far. Idempotent."""
        ...

    def record_soon(self, channels: Collection[str]) -> None:
        """Wake the recorder for the conversations of *channels*; return immediately.

        Raises:
            Busy: the recording queue is full.
        """
        ...

    async def conversations(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Return conversations, newest first, and the cursor of the next page."""
        ...

    async def ready(self) -> dict[str, str]:
        """Return the state of each dependency by name: "ok", or a fault that does not stop it.

        Raises:
            Unavailable: the service cannot serve requests.
        """
        ...
