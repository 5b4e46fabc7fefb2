"""The port to the publish queue, which everything published goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from rehydrate.core.event import Event


class EventProducer(Protocol):
    """Produces the events of one response, each at the moment it is sent. Calls must not block."""

    @property
    def has_more(self) -> bool:
        """Whether `next_event` would return an event now."""
        ...

    def next_event(self) -> Event | None:
        """Return the next event to publish; None if there is nothing at present."""
        ...

    def on_sent(self, event: Event) -> None:
        """Handle that *event*, which now has its id, was sent."""
        ...

    def on_acknowledged(self, event: Event, serial: str | None, *, refused: bool) -> None:
        """Handle the result of an event that was sent. *refused*: it may not be published."""
        ...


class ChannelPublisher(Protocol):
    """The publish queue of one channel."""

    def ready(self, producer: EventProducer) -> None:
        """Publish the events of *producer* as soon as the rate allows."""
        ...

    async def publish_one(self, event: Event) -> str | None:
        """Publish *event* by itself, under its own id; return its serial once acknowledged.

        Raises:
            ChannelUnavailable: it was refused, or not acknowledged.
        """
        ...

    def post(
        self, event: Event, *, is_permitted: Callable[[], bool] | None = None
    ) -> asyncio.Future[Sequence[str | None]]:
        """Publish *event* by itself; the future resolves when it is acknowledged.

        *is_permitted* is called at its turn; if it returns False, the publish is refused.
        """
        ...

    def post_batch(
        self, events: Sequence[Event], *, is_permitted: Callable[[], bool] | None = None
    ) -> asyncio.Future[Sequence[str | None]]:
        """Publish *events* together: all or none, as `post` does."""
        ...


class Publisher(Protocol):
    """The publish queue of a process."""

    def channel(
        self, channel_name: str, *, steady_per_s: float = 0.0
    ) -> AbstractContextManager[ChannelPublisher]:
        """Open the queue of a channel for the block.

        Args:
            channel_name: the channel to publish on.
            steady_per_s: publishes a second that the caller sends at fixed times, so that they
                cannot be merged while they wait; capacity is reserved for them.
        """
        ...
