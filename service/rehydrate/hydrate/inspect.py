"""Inspect: one message with the times and sources of its pieces, its publisher and its lease."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.positions import check_conversation_id, check_message_id
from rehydrate.core.replay.chunks import Span, joined, spans
from rehydrate.errors import NotFound, RehydrateError
from rehydrate.hydrate.history_window import CHANNEL
from rehydrate.hydrate.hydrate import Page, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rehydrate.context import Context
    from rehydrate.core.fold import MessageState
    from rehydrate.core.timeline import Reason
    from rehydrate.core.window import LostInterval, Watermark
    from rehydrate.hydrate.history_window import HistorySource
    from rehydrate.ports import Backlog, LeaseSeen


class Inspected(NamedTuple):
    """A message in its current state, with its sources.

    Attributes:
        conversation_id: its conversation.
        channel: the conversation's channel.
        state: the message, folded up to now.
        stored: the status and last seq that the store has; None: it is not stored.
        stretches: spans of its pieces, each from one source.
        joined: how many pieces one entry of a span stands for.
        lease: its publisher's lease; None: it never had one.
        watermark: how far its conversation is recorded.
        holes: the intervals that its conversation has lost.
        reasons: why history could not be read.
    """

    conversation_id: str
    channel: str
    state: MessageState
    stored: tuple[str, int | None] | None
    stretches: list[Span]
    joined: int
    lease: LeaseSeen | None
    watermark: Watermark | None
    holes: Sequence[LostInterval]
    reasons: list[Reason]


async def inspect(
    ctx: Context,
    conversation_id: str,
    message_id: str,
    *,
    source: HistorySource = CHANNEL,
) -> Inspected:
    """Return one message with its details, whether it is stored or only on the channel.

    Raises:
        BadParameter: an id is outside its syntax.
        NotFound: neither the store nor the channel has that message.
        StoreUnavailable: Postgres does not answer.
    """
    check_conversation_id(conversation_id)
    check_message_id(message_id, "message_id")
    states = await ctx.store.states(conversation_id, [message_id])
    stored = next((state for state in states if state.id == message_id), None)
    lease = await ctx.store.lease_seen(conversation_id, message_id)
    reading = await read(ctx, conversation_id, page=Page(limit=1), source=source)
    now = reading.timeline.messages.get(message_id)
    if now is None or (stored is not None and not now.changed):
        now = stored
    if now is None:
        raise NotFound(f"the conversation has no message {message_id!r}")
    found, factor = joined(spans(stored, now))
    row = reading.stored.conversation
    return Inspected(
        conversation_id,
        reading.channel,
        now,
        None if stored is None else (stored.status, stored.seq),
        found,
        factor,
        lease,
        row.watermark if row else None,
        row.holes if row else (),
        reading.reasons,
    )


class Check(NamedTuple):
    """The result of a check: the fault (None: it is healthy), and how long it took, in ms."""

    fault: str | None
    ms: float


class ServiceHealth(NamedTuple):
    """The state of a process's dependencies, and its backlog.

    Attributes:
        database: the check of the database.
        channel: the check of Ably.
        backlog: open and unannounced responses; None: the database does not answer.
        waiting: how many conversations wait to be recorded in this process.
        followed: how many conversations this process is attached to.
        patience_s: the longest time, in seconds, that an open response goes unread while the
            recorders keep up.
        now_ms: the time of the check, ms since 1970.
    """

    database: Check
    channel: Check
    backlog: Backlog | None
    waiting: int
    followed: int
    patience_s: float
    now_ms: int

    @property
    def behind_s(self) -> float:
        """How far the recorders are behind, in seconds; 0: they keep up."""
        if self.backlog is None or self.backlog.oldest_ms is None:
            return 0.0
        return max(0.0, (self.now_ms - self.backlog.oldest_ms) / 1000 - self.patience_s)


async def checked(answers: Callable[[], Awaitable[None]]) -> Check:
    """Run *answers*; an error that it raises is the fault of the returned check."""
    began_s = time.perf_counter()
    fault = None
    try:
        await answers()
    except RehydrateError as error:
        fault = str(error)
    return Check(fault, (time.perf_counter() - began_s) * 1000)
