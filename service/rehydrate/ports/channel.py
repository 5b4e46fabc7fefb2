"""The channel's ports: history, live messages, publishing and its queue, and permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Union

from rehydrate.core.json import dump, sent_bytes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from rehydrate.core.event import ChannelMessage, Event


class Outgoing(NamedTuple):
    """A channel message to publish. ``id`` makes sending it again harmless.

    ``is_permitted`` is called each time before it is written to a connection, the first time or
    again after one was lost; if it returns False, the publish fails with `PermitExpired`.
    """

    name: str
    data: Any
    id: str
    extras: Mapping[str, Any] | None = None
    client_id: str | None = None
    is_permitted: Callable[[], bool] | None = None

    @property
    def size_bytes(self) -> int:
        """The size of the message as Ably counts it (TM6)."""
        if isinstance(self.data, str):
            size = len(self.data.encode("utf-8", "surrogatepass"))
        else:
            size = 0 if self.data is None else sent_bytes(self.data)
        names = len(self.name) + len((self.client_id or "").encode("utf-8", "replace"))
        return size + names + len(dump(self.extras))


Batch = Union["Sequence[Outgoing]", "Callable[[], Sequence[Outgoing]]"]
"""The messages of one publish, or a callable that returns them at the moment of sending."""


class Discontinuity(NamedTuple):
    """Messages may have been missed here; hydrate again.

    Attributes:
        reason: why.
        attach_serial: the attach point of the new attachment, whose messages follow; None: it is
            not attached yet, or the SDK does not expose it.
    """

    reason: str
    attach_serial: str | None = None


class BacklogEnd(NamedTuple):
    """The rewound messages of the attachment end here; every later one is live.

    Attributes:
        proved: False: it could not be found out where they end, so any number may still follow.
    """

    proved: bool


Delivered = Union["ChannelMessage", Discontinuity, BacklogEnd]
"""What a subscription yields."""


class Subscription(Protocol):
    """An attached channel: messages in the order of delivery, from the attach on.

    With a rewind, a `BacklogEnd` follows the rewound messages of each attachment.
    """

    attach_serial: str | None
    """The attach point, if the SDK exposes it."""

    def __aiter__(self) -> AsyncIterator[Delivered]:
        """Messages, and marks between them, until the subscription is closed."""
        ...

    @property
    def idle(self) -> bool:
        """True if no message waits to be read."""

    async def alive_within(self, within_s: float) -> bool:
        """Return whether it is attached on a connection proved alive in the last *within_s* seconds.

        Pings the connection if necessary. False while messages from before the attach, or from the
        time of a lost connection, may still be on their way.
        """
        ...


class ChannelLog(Protocol):
    """Ably channels: history, subscriptions and publishing."""

    def now_ms(self) -> int:
        """Return Ably's time, ms since 1970: never ahead of it once known, whatever the local clock."""
        ...

    async def sync_clock(self) -> None:
        """Return once Ably's time is known.

        Raises:
            ChannelUnavailable: it does not answer.
        """
        ...

    def history(
        self,
        channel: str,
        *,
        since_ms: int | None = None,
        until: str | None = None,
        forwards: bool = False,
        limit: int = 1000,
    ) -> AsyncGenerator[list[ChannelMessage]]:
        """Yield pages of persisted history, each oldest first.

        Args:
            channel: the channel.
            since_ms: omit messages with an older timestamp, ms since 1970.
            until: end at that attach point, if Ably permits it (RTL10b); if it refuses (90008,
                40024), read to the end of history.
            forwards: yield the oldest page first; otherwise the newest, so that a caller may
                stop early.
            limit: messages a page.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
            ChannelRefused: Ably refuses the read.
        """
        ...

    def subscribe(
        self, channel: str, *, rewind: str | None = None, capacity: int = 10_000
    ) -> AbstractAsyncContextManager[Subscription]:
        """Attach, and collect messages from then on; at most *capacity* wait to be read.

        ``rewind``: Ably's channel parameter ("10s", "100", or a serial). When more than *capacity*
        wait, they are dropped and a `Discontinuity` is delivered in their place.
        """
        ...

    async def ready(self) -> None:
        """Return if Ably answers.

        Raises:
            ChannelUnavailable: it does not.
        """
        ...


class PublishTransport(Protocol):
    """The publishing side of the channel service: rates, turns and connections."""

    def publish(self, channel: str, batch: Batch) -> asyncio.Future[Sequence[str | None]]:
        """Publish *batch* as one, after everything published before on *channel*.

        It is sent as soon as the rates of Ably allow, at once if possible; a callable is called
        then, and may return no messages. Several messages need ids ``base:0``, ``base:1`` ….

        Returns:
            A future of the messages' serials, resolved when Ably acknowledges them. Cancelling it
            gives the publish up, if it was not sent yet.

        Raises:
            ChannelUnavailable: (from the future) no acknowledgement in time: it may or may not
                have been published.
            ChannelRefused: (from the future) Ably refused it: it was not published.
        """
        ...

    def reserve(self, channel: str, *, steady_per_s: float = 0.0) -> AbstractContextManager[None]:
        """Reserve capacity to publish on *channel* for the block.

        Args:
            channel: the channel that the block publishes on.
            steady_per_s: publishes a second for which room must stay free; 0: as many as fit.
        """
        ...


class Authority(Protocol):
    """The permissions of tokens and keys, as Ably decides them."""

    async def admits(self, token: str, channel: str) -> bool:
        """Return True if *token* permits reading *channel* (``history`` or ``subscribe``).

        Raises:
            Unauthorized: Ably rejects the token.
            ChannelUnavailable: Ably does not answer in time.
        """
        ...

    async def key_capability(self, key: str) -> dict[str, list[str]]:
        """Return the operations that Ably grants to *key*, by channel pattern.

        Raises:
            Unauthorized: the key is unknown to Ably.
            ChannelUnavailable: Ably does not answer in time.
        """
        ...


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
