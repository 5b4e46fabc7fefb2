"""Inspect: one message with the times of its pieces, their sources, its publisher and its lease."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.positions import check_conversation_id, check_message_id
from rehydrate.core.replay.provenance import Span, joined, spans
from rehydrate.errors import NotFound, RehydrateError
from rehydrate.hydrate.history_window import from_channel
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
    """A message as it stands, and what it stands on.

    ``stored``: up to where the store has it (its status and last seq); None: not at all.
    ``stretches``: its pieces by source. ``joined``: how many pieces each of theirs stands for.
    ``watermark``, ``holes``: of its conversation. ``reasons``: why history could not be read.
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
    source: HistorySource = from_channel,
) -> Inspected:
    """Look at one message, stored or only on the channel yet.

    Raises:
        BadParameter: an id is outside its syntax.
        NotFound: nobody knows of such a message.
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
    """Whether something answers: ``ok``, or what is wrong, in words; and after how long, in ms."""

    fault: str | None
    ms: float


class ServiceHealth(NamedTuple):
    """What this process stands on, and what it is behind with.

    ``backlog``: None where the database does not say. ``waiting``: conversations that wait to be
    recorded here; ``followed``: those that are attached to. ``patience_s``: no open response goes
    unread for longer, unless the recorders are behind.
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
        """For how long the recorders have been behind, in seconds; 0: they are not."""
        if self.backlog is None or self.backlog.oldest_ms is None:
            return 0.0
        return max(0.0, (self.now_ms - self.backlog.oldest_ms) / 1000 - self.patience_s)


async def checked(answers: Callable[[], Awaitable[None]]) -> Check:
    """How *answers* went, which raises what is wrong."""
    began_s = time.perf_counter()
    fault = None
    try:
        await answers()
    except RehydrateError as error:
        fault = str(error)
    return Check(fault, (time.perf_counter() - began_s) * 1000)
