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

**No message keeps others from being recorded.** A page that cannot be committed, for any reason but
an outage, is committed without the messages that prevent it; they are counted as ``unrecordable``.
Otherwise one message, from any publisher, would stop recording for as long as it is retained.

If history had already dropped messages before they were read, the lost interval is stored in the
same transaction as the watermark that passes it. Stored later, it could be forgotten by a crash in
between; computed on demand, it would be gone once the watermark has moved. See docs/exactness.md.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from rehydrate.core.codecs import decode_all
from rehydrate.core.fold import MessageState, Outcome
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.timeline import MAX_OPEN, Timeline, ignored
from rehydrate.core.window import Window, advanced, missed, read_again_from, read_from_ms, spanned
from rehydrate.errors import RehydrateError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.core.window import LostInterval
    from rehydrate.ports import LockedConversation, Stored

_log = logging.getLogger(__name__)

PAGE = 1_000
"""Channel messages that are folded in one transaction; this bounds the memory of a catch-up."""


class Recorded(NamedTuple):
    """The result of a `catch_up`.

    Attributes:
        messages: the number of channel messages that were read.
        counts: the outcomes of their events.
        moved: False if another recorder had moved the watermark, and this one gave way to it.
        edited: edited messages were read again.
    """

    messages: int
    counts: Counter[str]
    moved: bool
    edited: bool = False


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
    row = stored.conversation
    name = row.channel if row else ctx.default_channel(conversation_id)
    recording = _Recording(ctx, (conversation_id, name), stored)
    edited_ms = ctx.edited_ms.pop(name)
    whole = False
    try:
        whole = await _record_pages(ctx, recording, name, edited_ms)
    finally:
        if edited_ms is not None and not whole:
            ctx.note_edit(name, edited_ms)
    edited = whole and edited_ms is not None
    return Recorded(recording.window.count, recording.counts, moved=whole, edited=edited)


async def _record_pages(
    ctx: Context, recording: _Recording, name: str, edited_ms: int | None
) -> bool:
    """Record history from the watermark on; return False if another recorder has moved it.

    History shows an edited message at the place of its create, which may be far below the
    watermark. The read then begins there; before the margin, only edits are folded.
    """
    since_ms, window = read_from_ms(recording.watermark), recording.window
    first_ms = since_ms if None in (since_ms, edited_ms) else min(since_ms or 0, edited_ms or 0)
    pages = ctx.channel.history(name, since_ms=first_ms, forwards=True, limit=PAGE)
    async with aclosing(pages):
        async for shown, at_end in _with_end(pages):
            page = shown
            if first_ms != since_ms:
                page = [m for m in shown if m.action or m.timestamp_ms >= (since_ms or 0)]
            window.add_page(page)
            if not recording.has_row and not window.count:
                break
            if not await recording.record(page, at_end=at_end):
                return False
    return True


class _Recording:
    """A catch-up under way, page by page.

    Attributes:
        watermark: the one that it has moved to, or began with.
        window: what was read.
        counts: the outcomes.
        has_row: the conversation has a row.
    """

    def __init__(self, ctx: Context, where: tuple[str, str], stored: Stored) -> None:
        row = stored.conversation
        self.watermark = row.watermark if row else None
        self.window, self.counts = Window(ctx.now_ms()), Counter[str]()
        self._ctx = ctx
        self._where = where
        self.has_row = row is not None
        self._created_ms = row.created_ms if row else None
        self._names = Timeline(stored.open)
        self._hole: LostInterval | None = None
        self._lost: LostInterval | None = None
        self._is_first = True
        self._growing: dict[str, MessageState] = {}

    async def record(self, page: Sequence[ChannelMessage], *, at_end: bool) -> bool:
        """Commit a page; return False if another recorder has moved the watermark."""
        if self._is_first:
            retention_ms = self._ctx.retention_ms
            self._hole = missed(self.watermark, self._created_ms, self.window, retention_ms)
            self._lost = self._hole
        events = list(decode_all(page, self._ctx.token_names))
        ignored_counts = ignored(page, events)
        try:
            moved = await self._commit(events, at_end=at_end)
        except Unavailable:
            raise
        except Exception as error:
            kept = await self._recordable(events)
            count = len(events) - len(kept)
            if not _is_fault_of_message(error) and count > max(1, len(events) // 10):
                raise  # the events stay on the channel, and are read again
            _log.warning("%d messages cannot be recorded: %s", count, type(error).__name__)
            self.counts[Outcome.UNRECORDABLE.value] += count
            moved = await self._commit(kept, at_end=at_end)
        self.counts += ignored_counts if moved else Counter()
        self._is_first = False
        return moved

    async def _commit(self, events: Sequence[Event], *, at_end: bool) -> bool:
        window, retention_ms = self.window, self._ctx.retention_ms
        async with self._ctx.store.locked(*self._where) as locked:
            if locked.conversation.watermark != self.watermark:
                return False
            timeline = await _fold_onto_rows(self._ctx, locked, events, self._hole, self._names)
            growing = _growing(self._growing, timeline, window.read_at_ms)
            watermark = advanced(
                self.watermark,
                window,
                at_end=at_end,
                growing=read_again_from(growing.values(), window.read_at_ms),
                retention_ms=retention_ms,
            )
            lost = spanned(self._lost, timeline.refused)
            hole = lost if self._is_first or timeline.refused else None
            excluded = timeline.excluded
            await locked.move(watermark, hole, erased=excluded.erased, stream=excluded.stream)
        self.watermark, self._growing, self._lost = watermark, growing, lost
        self.counts += timeline.counts
        return True

    async def _recordable(self, events: Sequence[Event]) -> list[Event]:
        """Return *events* without those that keep the others from being recorded.

        The first one is found by trying beginnings of the page, each half as long or longer as
        needed, in transactions that are undone.
        """
        kept = list(events)
        while not await self._succeeds(kept):
            low, high = 0, len(kept)  # the first `low` succeed, the first `high` do not
            while high - low > 1:
                middle = (low + high) // 2
                if await self._succeeds(kept[:middle]):
                    low = middle
                else:
                    high = middle
            if not kept:
                raise RehydrateError("a conversation cannot be recorded")
            del kept[low]
        return kept

    async def _succeeds(self, events: Sequence[Event]) -> bool:
        with suppress(_UndoneError):
            try:
                async with self._ctx.store.locked(*self._where) as locked:
                    await _fold_onto_rows(self._ctx, locked, events, self._hole, self._names)
                    _undo()
            except (Unavailable, _UndoneError):
                raise
            except Exception:  # noqa: BLE001 - the caller finds out which event it was
                return False
        return True


def _is_fault_of_message(error: Exception) -> bool:
    """Return True for an error that a message can cause, and False for a defect of our own code.

    A defect may make every event of a page fail, and leaving them all out would lose their text: so
    at most one event in ten may be left out because of a defect.
    """
    return isinstance(error, RehydrateError) and error.code != RehydrateError.code


class _UndoneError(Exception):
    """Rolls a trial back."""


def _undo() -> NoReturn:
    raise _UndoneError


async def _fold_onto_rows(
    ctx: Context,
    locked: LockedConversation,
    events: Sequence[Event],
    hole: LostInterval | None,
    names: Timeline,
) -> Timeline:
    """Fold *events* onto the rows as they are now, write the changed ones, return the timeline."""
    asked = names.lookup(events, include_known=True)
    states = {} if asked.is_empty else await locked.messages(asked)
    may_create = not asked.ids <= states.keys()
    others = await locked.open_beside(states.keys(), most=MAX_OPEN) if may_create else 0
    timeline = Timeline(
        agents=ctx.agents, tombstone=locked.conversation.tombstone, elsewhere=others
    )
    timeline.learn(asked, states.values())
    if hole is not None:
        timeline.mark_inexact()
    unstreamed = [s for s in timeline.messages.values() if s.posted and s.owner is None]
    timeline.fold(events)
    changed = [state for state in timeline.messages.values() if state.changed]
    if changed:
        await locked.put(changed)
    for state in unstreamed:
        if state.owner is not None:  # live readers show the channel's events of it
            await leave_end_to_sweeper(locked, state.id)
    return timeline


async def leave_end_to_sweeper(
    locked: LockedConversation, message_id: str, *, after_s: float = 0.0
) -> None:
    """Give the message a lease of *after_s* seconds, so that a sweeper then publishes its stop."""
    lease = await locked.lease(message_id)
    if lease is None or not lease.fenced:
        await locked.grant(message_id, "stored", after_s)


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
