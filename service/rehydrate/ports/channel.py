"""The port to a channel: its history, its live messages, and what is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager

    from rehydrate.core.event import ChannelMessage


class Outgoing(NamedTuple):
    """A channel message to publish. ``id`` makes sending it again harmless."""

    name: str
    data: Any
    id: str
    extras: Mapping[str, Any] | None = None
    client_id: str | None = None


class Discontinuity(NamedTuple):
    """Messages may have been missed here; hydrate again."""

    reason: str


class Subscription(Protocol):
    """An attached channel: messages in the order of delivery, from the attach on."""

    attach_serial: str | None
    """The attach point, if the SDK tells it."""

    def __aiter__(self) -> AsyncIterator[ChannelMessage | Discontinuity]:
        """Messages and discontinuities, until the subscription is closed."""
        ...

    @property
    def idle(self) -> bool:
        """Whether none of them waits to be taken."""

    async def alive_within(self, within_s: float) -> bool:
        """Return whether it is attached on a connection proved alive in the last *within_s* seconds.

        Pings the connection if necessary.
        """
        ...


class ChannelLog(Protocol):
    """Ably, as far as we need it."""

    def now_ms(self) -> int:
        """Ably's time, ms since 1970: never ahead of it once it is known, however ours is set."""
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
        """Pages of persisted history, each oldest first.

        Backwards (the default) the newest page comes first, so that a caller may stop early;
        forwards the oldest. ``since_ms``: nothing with an older timestamp (inclusive). ``until``:
        up to that attach point, where Ably grants it (RTL10b); where it refuses (90008, 40024),
        plain history. ``limit``: messages a page.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
            ChannelRefused: Ably says no.
        """
        ...

    def publish(
        self, channel: str, messages: Sequence[Outgoing], *, lane: int = 0
    ) -> Awaitable[Sequence[str | None]]:
        """Send *messages* as one publish, now, behind all that were sent before on *lane*.

        Each lane is a connection of its own. Several messages need ids ``base:0``, ``base:1`` ….
        Returns at once; the awaitable gives the serials when Ably has acknowledged. It may be
        awaited late or by a callback.

        Raises:
            ChannelUnavailable: (from the awaitable) no acknowledgement in time: it may or may not
                have been published.
            ChannelRefused: (from the awaitable) Ably refused it: it was not published.
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


class Authority(Protocol):
    """What tokens and keys permit, as Ably decides it."""

    async def admits(self, token: str, channel: str) -> bool:
        """Whether Ably lets the bearer of *token* read *channel* (``history`` or ``subscribe``).

        Raises:
            Unauthorized: Ably does not take the token.
            ChannelUnavailable: Ably does not answer in time.
        """
        ...

    async def key_capability(self, key: str) -> dict[str, list[str]]:
        """What *key* may do: operations by channel pattern, as Ably says.

        Raises:
            Unauthorized: Ably does not know the key.
            ChannelUnavailable: Ably does not answer in time.
        """
        ...
