"""The port to the queue that everything published goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from rehydrate.core.event import Event


class EventSource(Protocol):
    """A writer with events to publish on a channel. The calls may not block."""

    def next_event(self) -> Event | None:
        """Return the next event to publish; None if there is nothing at present."""
        ...

    def posted(self, event: Event) -> None:
        """Note that *event* was sent; it now has its id."""
        ...

    def answered(self, event: Event, serial: str | None, *, refused: bool) -> None:
        """Note the result of an event that was sent. *refused*: it may not have been published."""
        ...


class ChannelPublisher(Protocol):
    """The queue of one channel."""

    def ready(self, writer: EventSource) -> None:
        """Publish what *writer* has, as soon as the rate limit allows."""
        ...

    async def say_alone(self, event: Event) -> str | None:
        """Publish *event* by itself, under its own id; return its serial once acknowledged.

        Raises:
            ChannelUnavailable: it was refused, or not acknowledged.
        """
        ...

    def post_together(self, events: Sequence[Event]) -> asyncio.Future[Sequence[str | None]]:
        """Publish *events* in one message; the future resolves when it is acknowledged."""
        ...

    def post(self, event: Event) -> asyncio.Future[Sequence[str | None]]:
        """Publish *event* by itself; the future resolves when it is acknowledged."""
        ...


class Publisher(Protocol):
    """The publish queue of a process."""

    def tray(
        self, channel_name: str, *, steady_per_s: float = 0.0
    ) -> AbstractContextManager[ChannelPublisher]:
        """Borrow the queue of a channel while the block runs.

        Args:
            channel_name: the channel to publish on.
            steady_per_s: publishes a second that the borrower sends at times of its own.
        """
        ...
