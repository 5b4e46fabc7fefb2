"""The protocol that the HTTP API requires of the service behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from rehydrate.core.positions import Cursor
    from rehydrate.follow.subscriptions import Follower
    from rehydrate.hydrate.hydrate import Hydrated
    from rehydrate.ports import Conversation
    from rehydrate.record.import_messages import NewMessage, StoreResult


class ReaderCalls(NamedTuple):
    """What the two hot routes call for every request, without a facade in between.

    Attributes:
        channel_of: as `rehydrate.context.Context.channel_of`.
        hydrate: as `rehydrate.hydrate.hydrate.hydrate`, without the context.
        joined: as `rehydrate.follow.subscriptions.Subscriptions.joined`.
    """

    channel_of: Callable[[str], Awaitable[str]]
    hydrate: Callable[..., Awaitable[Hydrated]]
    joined: Callable[..., AbstractAsyncContextManager[Follower]]


class Service(Protocol):
    """The use cases behind the routes. Each call may raise `StoreUnavailable`."""

    @property
    def readers(self) -> ReaderCalls:
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

        Args:
            channels: their names; in a mapping with the time of the oldest message on each that was
                edited, in ms since 1970.

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
