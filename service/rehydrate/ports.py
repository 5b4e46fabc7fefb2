"""The two ports: what the acts need of a channel and of a store. Rooms fulfil them structurally."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Collection,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager

    from rehydrate.core.events import ChannelMessage
    from rehydrate.core.ids import Cursor
    from rehydrate.core.response import MessageState
    from rehydrate.core.timeline import Hole, Tombstone, Watermark


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

    async def heard_within(self, within_s: float) -> bool:
        """Whether it is attached, and has shown in the last *within_s* seconds that it is alive.

        The connection is asked if need be.
        """
        ...


class ChannelLog(Protocol):
    """Ably, as far as we need it."""

    def now_ms(self) -> int:
        """Ably's time, ms since 1970: never ahead of it once it is known, however ours is set."""
        ...

    async def know_time(self) -> None:
        """Return once Ably has said what time it is.

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

    async def ready(self) -> None:
        """Return if Ably answers.

        Raises:
            ChannelUnavailable: it does not.
        """
        ...


class Conversation(NamedTuple):
    """A conversation's row. Times are ms since 1970."""

    id: str
    channel: str
    created_ms: int
    watermark: Watermark | None = None
    holes: tuple[Hole, ...] = ()
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


class Held(Protocol):
    """A conversation whose row is locked until the block ends; all is written together."""

    conversation: Conversation

    async def messages(self, ids: Collection[str | None]) -> dict[str, MessageState]:
        """The stored messages among *ids*, whole (with their runs and tapes).

        None among *ids* stands for the newest anonymous message.
        """
        ...

    async def lease(self, message_id: str) -> Lease | None:
        """The lease of a stored message; None if it has none."""
        ...

    async def put(self, states: Collection[MessageState]) -> None:
        """Write what was folded into *states* (read by this `Held`, or new)."""
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

    async def move(self, watermark: Watermark, hole: Hole | None) -> None:
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

    def locked(self, conversation_id: str, channel: str) -> AbstractAsyncContextManager[Held]:
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


class Claims(Protocol):
    """Which agent is about to answer which prompt. Every call may raise `StoreUnavailable`."""

    async def claim(
        self, conversation_id: str, holder: str, lease_s: float, passed: Collection[str]
    ) -> bytes | None:
        """Claim the first prompt that has no response and no claim, but none of *passed*.

        Returns it in its wire form; None if there is none.
        """
        ...

    async def renew_claim(
        self, conversation_id: str, prompt_id: str, holder: str, lease_s: float
    ) -> bool:
        """Keep a claim for *lease_s* seconds more; False if it is not *holder*'s any more."""
        ...

    async def release_claim(self, conversation_id: str, prompt_id: str, holder: str) -> None:
        """Give a claim back."""
        ...
