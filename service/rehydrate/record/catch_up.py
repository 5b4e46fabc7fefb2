"""Catch up: fold the channel's history since the watermark into the store.

Why events are folded under the lock, and never a state that was folded outside it
-----------------------------------------------------------------------------------

A catch-up reads the channel for up to seconds. During that time others write to the same rows:
the publisher commits its final text, a sweeper fences a response, an erasure leaves a tombstone,
another process records the same conversation. The simple design, "load the rows, fold the page in
memory, save the result", loses data in each case. The shortest schedule::

    catch-up   loads the rows, and reads `start A1` from the channel
    publisher  commits A = completed, [1 2 3], and publishes `stop`
    catch-up   saves A = in progress, [1]          <- a finished response is open again

A compare-and-set on the watermark does not prevent this, since a publisher does not move it.
So a state that was computed outside the lock is never written. For each page, one transaction

1. locks the conversation's row, which publishers, sweepers, erasures and imports lock as well;
2. returns without a change if the watermark is not the one that this catch-up started from:
   another recorder has moved it, and has therefore folded at least these events;
3. loads the rows as they are now, and folds the page's *events* onto them. The fold ignores every
   event that a row already contains, and a terminal row keeps its text, so a row that moved ahead
   in the meantime stays as it is;
4. writes the changed rows and the new watermark together, so that the watermark never covers an
   event that is not in the rows.

Reading again is therefore always safe, and a process may be killed at any moment: what was
committed is complete, and what was not is read again by the next catch-up.

The watermark moves page by page, which is only correct because pages are read forwards. It does not
always reach the page's last message: a channel message that grows by appends stays in history at
the place of its *first* version, so a later version lies below a watermark that has passed that
place. While such a message may still grow, the next read must begin at it (`read_again_from`).

If history had already dropped messages before they were read, the lost interval is stored in the
same transaction as the watermark that passes it. Stored later, it could be forgotten by a crash in
between; computed on demand, it would be gone once the watermark has moved. See docs/exactness.md.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.codecs import decode_all
from rehydrate.core.fold import MessageState
from rehydrate.core.message import read_again_from
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.timeline import MAX_OPEN, Timeline, ignored
from rehydrate.core.window import Window, advanced, missed, read_from_ms, spanned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.core.window import LostInterval
    from rehydrate.ports import LockedConversation

PAGE = 1_000
"""Channel messages that are folded in one transaction; this bounds the memory of a catch-up."""


class Recorded(NamedTuple):
    """The result of a `catch_up`.

    Attributes:
        messages: the number of channel messages that were read.
        counts: the outcomes of their events.
        moved: False if another recorder had moved the watermark, and this one gave way to it.
    """

    messages: int
    counts: Counter[str]
    moved: bool


async def catch_up(ctx: Context, conversation_id: str) -> Recorded:
    """Fold the channel's history since the watermark into the store, and move the watermark.

    Each page is committed in a transaction of its own. A conversation that has neither a row nor
    any channel message gets no row.

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation.

    Returns:
        The numbers of messages and outcomes.

    Raises:
        StoreUnavailable: Postgres does not answer; pages that were committed stay.
        ChannelUnavailable: Ably does not answer; pages that were committed stay.
    """
    check_conversation_id(conversation_id)
    stored = await ctx.store.load(conversation_id, limit=1, before=None)
    row, names = stored.conversation, Timeline(stored.open)
    watermark = row.watermark if row else None
    created_ms = row.created_ms if row else None
    name = row.channel if row else ctx.default_channel(conversation_id)
    window, counts = Window(ctx.now_ms()), Counter[str]()
    hole, lost, growing = None, None, dict[str, MessageState]()
    pages = ctx.channel.history(name, since_ms=read_from_ms(watermark), forwards=True, limit=PAGE)
    async with aclosing(pages):
        async for page, at_end in _with_end(pages):
            is_first = window.oldest_ms is None
            window.add_page(page)
            if row is None and not window.count:
                break
            if is_first:
                lost = hole = missed(watermark, created_ms, window, ctx.retention_ms)
            async with ctx.store.locked(conversation_id, name) as locked:
                if locked.conversation.watermark != watermark:
                    return Recorded(window.count, counts, moved=False)
                events = list(decode_all(page))
                timeline = await _fold_onto_rows(ctx, locked, events, hole, names)
                counts += timeline.counts + ignored(page, events)
                growing = _growing(growing, timeline, window.read_at_ms)
                watermark = advanced(
                    watermark,
                    window,
                    at_end=at_end,
                    growing=read_again_from(growing.values(), window.read_at_ms),
                    retention_ms=ctx.retention_ms,
                )
                lost = spanned(lost, timeline.refused)
                await locked.move(watermark, lost if is_first or timeline.refused else None)
    return Recorded(window.count, counts, moved=True)


async def _fold_onto_rows(
    ctx: Context,
    locked: LockedConversation,
    events: Sequence[Event],
    hole: LostInterval | None,
    names: Timeline,
) -> Timeline:
    """Fold *events* onto the rows as they are now, write the changed ones, return the timeline."""
    ids = {event.message_id for event in events} | {names.name(event) for event in events}
    states = await locked.messages(ids) if events else {}
    tombstone = locked.conversation.tombstone
    may_create = not ids <= states.keys()
    others = await locked.open_beside(states.keys(), most=MAX_OPEN) if may_create else 0
    timeline = Timeline(states.values(), agents=ctx.agents, tombstone=tombstone, elsewhere=others)
    if hole is not None:
        timeline.mark_inexact()
    timeline.fold(events)
    changed = [state for state in timeline.messages.values() if state.changed]
    if changed:
        await locked.put(changed)
    return timeline


def _growing(
    earlier: dict[str, MessageState], timeline: Timeline, read_at_ms: int
) -> dict[str, MessageState]:
    """Return the messages, of *earlier* pages and of *timeline*, that may still grow by appends."""
    latest = earlier | {state.id: state for state in timeline.messages.values() if state.versioned}
    return {id_: s for id_, s in latest.items() if read_again_from([s], read_at_ms) is not None}


async def _with_end(
    pages: AsyncIterator[list[ChannelMessage]],
) -> AsyncIterator[tuple[list[ChannelMessage], bool]]:
    """Yield each page and whether it is the last; one empty page if there is none."""
    page: list[ChannelMessage] = await anext(pages, [])
    async for following in pages:
        yield page, False
        page = following
    yield page, True
