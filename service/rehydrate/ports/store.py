"""The store's ports, by user: use cases, agents, maintenance, replays, the inspector.

What is written under the lock of a conversation's row is written by `LockedConversation`.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple, Protocol

from rehydrate.core.fold import MessageState
from rehydrate.core.positions import Cursor
from rehydrate.core.replay.schedule import AuditEntry, Replay
from rehydrate.core.timeline import Lookup
from rehydrate.core.window import ErasedStream, LostInterval, Tombstone, Watermark


class Conversation(NamedTuple):
    """A conversation's row. Times are ms since 1970."""

    id: str
    channel: str
    created_ms: int
    watermark: Watermark | None = None
    holes: tuple[LostInterval, ...] = ()
    tombstone: Tombstone | None = None
    metadata: Any = None


UNLIMITED_BYTES = 2**62
"""The limit of a page that is limited by the number of its messages alone."""


class Finished(NamedTuple):
    """A finished message in its wire form."""

    position: str
    id: str
    wire: bytes


class Stored(NamedTuple):
    """The stored part of a conversation, from one snapshot.

    Attributes:
        conversation: the row; None: there is none.
        finished: one page of finished messages, oldest first.
        more: there are older finished messages.
        open: every message that is not terminal; empty for a page further back.
    """

    conversation: Conversation | None
    finished: list[Finished]
    more: bool
    open: list[MessageState]


class Lease(NamedTuple):
    """The right to publish a response.

    Attributes:
        holder: a random name that the publisher made for itself.
        expired: it has run out, by the store's clock.
        fenced: a sweeper treats the publisher as dead: it may not write, and no other publisher
            may take the response over.
        stop_acked: the channel has acknowledged the response's ``stop``.
    """

    holder: str | None
    expired: bool
    fenced: bool
    stop_acked: bool


class Due(NamedTuple):
    """A response whose lease ran out before the channel acknowledged its end."""

    conversation_id: str
    message_id: str
    channel: str


class LockedLeases(Protocol):
    """The leases of a locked conversation's responses."""

    async def lease(self, message_id: str) -> Lease | None:
        """Return the lease of a stored message; None if it has none."""
        ...

    async def grant(self, message_id: str, holder: str, lease_s: float) -> None:
        """Let *holder* publish the stored message for the next *lease_s* seconds.

        Raises:
            Fenced: a sweeper has fenced the response, so it cannot be published any more.
            NotFound: the message is not stored.
        """
        ...

    async def fence(self, message_id: str, holder: str, for_s: float) -> None:
        """Take the response from its publisher permanently; *holder* ends it within *for_s*."""
        ...

    async def set_stop_acked(self, message_id: str) -> None:
        """Record that the channel acknowledged the message's ``stop``; this ends its lease."""
        ...


class LockedConversation(LockedLeases, Protocol):
    """A conversation whose row is locked until the block ends; all is written together."""

    conversation: Conversation

    async def messages(self, wanted: Collection[str] | Lookup) -> dict[str, MessageState]:
        """Return the stored messages with these ids, or of this lookup, whole, with timings.

        A message that was read before in this block is returned as the same object.
        """
        ...

    async def open_beside(self, ids: Collection[str], *, most: int) -> int:
        """Return how many stored messages outside *ids* are in progress, counting up to *most*."""
        ...

    async def put(self, states: Collection[MessageState]) -> None:
        """Write *states*, read by this `LockedConversation` or new, with what was folded since.

        Raises:
            BadParameter: an id cannot be stored.
            Conflict: a new message has the id of a stored one.
        """
        ...

    async def move(
        self,
        watermark: Watermark,
        hole: LostInterval | None,
        *,
        erased: Collection[str] = (),
        stream: ErasedStream | None = None,
        covered: LostInterval | None = None,
    ) -> None:
        """Move the watermark, and record the interval that it passes over unread.

        Lost intervals within *covered* are closed: all that was published then is stored.

        The tombstone, if there is one, then covers the responses in *erased* too, and *stream*.
        """
        ...

    async def erase(
        self, at_ms: int, ids: Collection[str], stream: ErasedStream | None = None
    ) -> None:
        """Delete the conversation's content; leave a tombstone that covers all up to *at_ms*.

        The tombstone also covers the messages in *ids*, and the stored ones that were open, claimed,
        or ended within a day: later events of those, and answers to them, belong to what was erased,
        and so does the rest of the anonymous *stream*.
        """
        ...


class Conversations(Protocol):
    """Conversations and their messages. Every call may raise `StoreUnavailable`.

    A list raises `BadParameter` for a cursor of another list.
    """

    async def conversation(self, conversation_id: str) -> Conversation | None:
        """Return the row of a conversation, without its messages; None if it has none."""
        ...

    async def load(
        self,
        conversation_id: str,
        *,
        limit: int,
        before: Cursor | None,
        most_bytes: int = UNLIMITED_BYTES,
    ) -> Stored:
        """Return the conversation's row, a page of finished messages, and all open messages.

        They are of one snapshot: no message is missing because it finished between two reads, or
        appears twice. A page before a cursor has no open messages. The finished messages are at most
        *limit*, and their wire forms together at most *most_bytes* long, unless it is one message.
        """
        ...

    async def states(
        self, conversation_id: str, wanted: Collection[str] | Lookup
    ) -> list[MessageState]:
        """Return the stored messages with these ids, or of this lookup, whole."""
        ...

    async def message(self, conversation_id: str, message_id: str) -> bytes | None:
        """Return one stored message in its wire form; None if there is none with that id."""
        ...

    def locked(
        self, conversation_id: str, channel: str
    ) -> AbstractAsyncContextManager[LockedConversation]:
        """Lock the conversation's row, created on *channel* if there is none.

        The block's writes are committed when it ends, or not at all if it raises.

        Raises:
            Conflict: another conversation has that channel.
        """
        ...

    async def conversations(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Return conversations, the newest first, and the cursor of the next page."""
        ...


class MaintenanceStore(Protocol):
    """What background tasks look for. Every call may raise `StoreUnavailable`."""

    async def erased(self, ids: Collection[str]) -> dict[str, int]:
        """Return those of the conversations *ids* that were erased, and up to when, in ms."""
        ...

    async def on_channels(self, channels: Collection[str]) -> dict[str, str]:
        """Return the ids of conversations by channel, for the *channels* that have a row."""
        ...

    async def overdue(self, *, limit: int, after_s: float, after: str = "") -> list[str]:
        """Return conversations not read for *after_s* seconds, by id after *after*.

        Only conversations with an open response, or created within an hour, are returned.
        """
        ...

    async def idle(
        self, *, limit: int, before_ms: int, after: tuple[str, str] = ("", "")
    ) -> tuple[list[Due], tuple[str, str] | None]:
        """Return responses without a lease that have no stored event since *before_ms*.

        *limit* open responses are looked at, after the conversation and message *after*. Also
        returns what to continue after; None at the end.
        """
        ...

    async def due(self, *, limit: int, after: tuple[str, str] = ("", "")) -> list[Due]:
        """Return responses whose leases ran out before their end was acknowledged.

        They are ordered by conversation and message, after *after*.
        """
        ...

    async def ready(self) -> None:
        """Return if Postgres answers and its schema is at head.

        Raises:
            StoreUnavailable: it does not answer, or the schema is not at head.
        """
        ...


class PromptClaims(Protocol):
    """The leases of agents on prompts. Every call may raise `StoreUnavailable`."""

    async def claim(
        self, conversation_id: str, holder: str, lease_s: float, passed: Collection[str]
    ) -> bytes | None:
        """Claim the first prompt outside *passed* without a response or another holder's claim.

        Returns it in its wire form; None: no prompt is free. Unless it is renewed, the claim lasts
        *lease_s* seconds.
        """
        ...

    async def renew_claim(
        self, conversation_id: str, prompt_id: str, holder: str, lease_s: float
    ) -> bool:
        """Renew a claim for *lease_s* seconds; return False if *holder* has lost it."""
        ...

    async def release_claim(self, conversation_id: str, prompt_id: str, holder: str) -> None:
        """Release a claim, so that another agent may take the prompt."""
        ...


class KeptCapabilities(Protocol):
    """The last known capability of each key. Every call may raise `StoreUnavailable`."""

    async def kept_capability(self, key_name: str) -> bytes | None:
        """Return the JSON kept for the key ``appId.keyId``; None if there is none."""
        ...

    async def keep_capability(self, key_name: str, capability: bytes) -> None:
        """Keep *capability*, JSON, for the key ``appId.keyId``."""
        ...


ReplayOrder = Literal["play", "cancel", "erased"]
"""What the holder of a replay has to do: go on; end it; end it without publishing any more text."""


class ReplayStore(Protocol):
    """Requested replays, and the audit. Every call may raise `StoreUnavailable`.

    A list raises `BadParameter` for a cursor of another list.
    """

    async def add_replay(
        self, replay: Replay, *, request: bytes, key: str | None, note: AuditEntry
    ) -> Replay:
        """Queue *replay*, or return the one that the same *key* and *request* queued before.

        Raises:
            Conflict: the key was used for another request.
            Busy: too many replays wait.
        """
        ...

    async def find_replay(self, replay_id: str) -> Replay | None:
        """Return the replay with that id; None if there is none."""
        ...

    async def replays(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Replay], Cursor | None]:
        """Return replays, the newest first, and the cursor of the next page."""
        ...

    async def cancel_replay(self, replay_id: str, note: AuditEntry) -> bool:
        """Request the end of a replay; return False if it has ended, or was cancelled before.

        A queued one ends at once, a running one when its holder renews its lease. *note* is
        stored in any case.
        """
        ...

    async def note(self, entry: AuditEntry) -> None:
        """Store *entry* in the audit, permanently."""
        ...

    async def audit(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Return audit entries, the newest first, and the cursor of the next page."""
        ...


class ReplayQueue(Protocol):
    """The replays that wait for a worker, or run in one. Every call may raise `StoreUnavailable`."""

    async def claim_replay(
        self, holder: str, lease_s: float, *, at_once: int, per_channel: int
    ) -> Replay | None:
        """Take the oldest replay without a holder; None if there is none, or enough run."""
        ...

    async def keep_replay(self, replay: Replay, holder: str, lease_s: float) -> ReplayOrder | None:
        """Store the progress of *replay* and renew its lease.

        Returns what *holder* has to do; None if it has lost the replay.
        """
        ...

    async def release_replay(self, replay: Replay, holder: str, *, begun: bool) -> None:
        """Give *replay* up, so that another process can continue it at once.

        This does not count as a failed attempt. *begun*: some of its events may have been published,
        so the next attempt does not count as the first.
        """
        ...

    async def end_replay(self, replay: Replay, holder: str, note: AuditEntry) -> bool:
        """Store how *replay* ended; return False if *holder* had lost it."""
        ...


class Listed(NamedTuple):
    """A conversation in a list. Times are ms since 1970.

    Attributes:
        id: the conversation's id.
        channel: its channel.
        created_ms: when its row was created.
        open: how many responses are streaming in it.
        last_ms: when the newest message ended, or the newest open one started.
        opens_with: the beginning of the first message's text; None: that message is very long.
        opens_role: the role of the first message.
        erased: the conversation was erased.
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
    """A lease, read without its lock; see `Lease`. Times are ms since 1970."""

    holder: str | None
    until_ms: int | None
    expired: bool | None
    fenced: bool
    stop_acked_ms: int | None


class Backlog(NamedTuple):
    """The work that waits for the recorder and the sweepers.

    Attributes:
        open: how many responses are streaming.
        conversations: how many conversations they are in.
        oldest_ms: when the one of these that was read longest ago was read, ms since 1970; None:
            there are none.
        untold: how many ended responses have an overdue ``stop``.
    """

    open: int
    conversations: int
    oldest_ms: int | None
    untold: int


class Inspections(Protocol):
    """The queries of the inspector. Every call may raise `StoreUnavailable`."""

    async def listed(
        self,
        *,
        limit: int,
        before: Cursor | None,
        query: str | None = None,
        streaming: bool = False,
    ) -> tuple[list[Listed], Cursor | None]:
        """Return conversations, the newest first, and the cursor of the next page.

        Args:
            limit: how many.
            before: the cursor of an earlier call.
            query: only conversations whose id begins with it, ordered by id. The first page also
                has, in addition to *limit*, the conversation whose channel has that name.
            streaming: only those with an open response, ordered by id.

        Raises:
            BadParameter: *before* is a cursor of another list.
        """
        ...

    async def lease_seen(self, conversation_id: str, message_id: str) -> LeaseSeen | None:
        """Return the lease of a message; None if it never had one."""
        ...

    async def backlog(self) -> Backlog:
        """Return the work that waits for the recorder and the sweepers."""
        ...


class Store(
    Conversations, MaintenanceStore, PromptClaims, Inspections, ReplayStore, ReplayQueue, Protocol
):
    """The whole store: what one adapter implements and `Context` passes on."""
