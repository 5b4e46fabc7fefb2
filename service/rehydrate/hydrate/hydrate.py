"""Hydrate: the stored conversation, with the channel's history since then folded in.

`hydrate` is what callers use. `read` does the work, and the comment above it is the argument; start
there. It needs these terms (docs/glossary.md has all):

* *watermark*: how far the store has recorded the channel: the serial of the newest recorded
  message, its timestamp, and when the recorder last read history to its end (``read_at_ms``).
* *margin*: how far before the watermark history is read again. It is one number, `MARGIN_MS` in
  `rehydrate.core.positions`; its comment states what it has to exceed, and what else it decides.
* *until*: the client's attach point, a serial. The client receives what follows it live, so the
  answer has to reach it.
* *position*: the place of a message, which is the serial at which it began. Pages are cut there.
* *gap*: events that are known to be missing from a text; a message lists its own. A message is
  *exact* if it lacks nothing else. *Lost interval*: a time whose events may have expired unread.
* *pointer*: a repair without content: the text that replaces the message's is in the store alone.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.context import Prefetch
from rehydrate.core import wire
from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import Outcome
from rehydrate.core.positions import Cursor, check_conversation_id, check_until, encode_cursor
from rehydrate.core.timeline import Reason, Timeline
from rehydrate.core.window import (
    Exclusions,
    may_need_read,
    missed,
    needs_no_read,
    read_from_ms,
    since_recorded,
)
from rehydrate.errors import BadParameter, ChannelUnavailable, NotFound
from rehydrate.hydrate.history_window import (
    CHANNEL,
    HistoryQuery,
    HistorySource,
    early_read,
    from_channel,
    no_history,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import Event
    from rehydrate.core.window import Watermark, Window
    from rehydrate.hydrate.history_window import HistoryWindow
    from rehydrate.ports import Stored

EPHEMERAL_LAG_S = 0.7
"""How long to wait for the ephemeral tokens that were published before this request: a publisher
stores them every half second. A client that attached earlier receives the later ones live."""

MAX_LIMIT = 200

PAGE_BYTES = 8_000_000
"""Maximum length of the messages of an answer, unless one alone is longer; `older` has the rest."""
_LAST = "~"
"""A position after all others: for an open message whose start has no serial yet."""

_EXPIRED = Reason(
    "history_expired",
    retry=False,
    detail="the channel's history ended before it was read, or held more than is kept",
)
_BEHIND = Reason(
    "history_unavailable", retry=True, detail="the channel's history does not show `until` yet"
)
_STORE_BEHIND = Reason("store_behind", retry=True, detail="a text is not stored yet")
_NOT_EXACT = Reason(
    "not_exact", retry=False, detail="a message has gaps, or exact: false: it may lack text"
)
_UNREADABLE = Reason(
    "unreadable", retry=False, detail="content of a message arrived and could not be read"
)
_TOO_MANY = Reason(
    "not_exact", retry=False, detail="more responses were begun than may be open at once"
)


class Hydrated(NamedTuple):
    """A conversation as a client must show it before its first live message.

    Attributes:
        conversation_id: the conversation.
        channel: its channel.
        until: the greatest serial that the answer is known to reach.
        rewind_from: a serial that a reader may rewind to; None: the channel has it no more.
        reasons: why the answer may lack something; empty: it does not.
        older: the cursor of the next page; None: there are no older messages.
        wires: the messages in their wire form, in order.
        settled: nothing in it is live, so a client may cache it.
        counts: how many channel events were folded or dropped, by outcome.
        exclusions: which events a reader has to drop.
        token_names: further names of channel messages that mean ``token``.
    """

    conversation_id: str
    channel: str
    until: str | None
    rewind_from: str | None
    reasons: list[Reason]
    older: str | None
    wires: list[bytes]
    settled: bool = False
    counts: Counter[str] | None = None
    exclusions: Exclusions = Exclusions()
    token_names: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """True if nothing may be missing: `reasons` is empty."""
        return not self.reasons

    @property
    def body(self) -> bytes:
        """The answer, encoded as JSON."""
        return wire.answer(
            conversation_id=self.conversation_id,
            channel=self.channel,
            until=self.until,
            rewind_from=self.rewind_from,
            reasons=self.reasons,
            older=self.older,
            messages=self.wires,
            exclusions=self.exclusions,
            token_names=self.token_names,
        )

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, parsed."""
        return [json.loads(each) for each in self.wires]


class Page(NamedTuple):
    """Which finished messages to return.

    Attributes:
        limit: how many, from 1 to `MAX_LIMIT`.
        before: the cursor of an earlier answer, to return messages older than its own; None: the
            newest messages, and everything that is open.
    """

    limit: int = 50
    before: Cursor | None = None


NEWEST = Page()


class Reading(NamedTuple):
    """A conversation as it was read: the stored part, joined with the channel's history since.

    Folding further events into ``timeline`` and calling `answer` again gives a newer answer.
    """

    conversation_id: str
    channel: str
    stored: Stored
    timeline: Timeline
    history: HistoryWindow
    reasons: list[Reason]
    token_names: frozenset[str] = frozenset()

    @property
    def window(self) -> Window:
        """The times and serials of the history that was read."""
        return self.history.window


async def hydrate(
    ctx: Context,
    conversation_id: str,
    *,
    until: str | None = None,
    page: Page = NEWEST,
    source: HistorySource | None = None,
    on_loaded: Callable[[int], None] = lambda _: None,
) -> Hydrated:
    """Return what a client must show before its first live message.

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation.
        until: the attach point that the answer must reach; it may go beyond. Without one it
            reaches at least 2 s before the call.
        page: which finished messages to return.
        source: where history is read from, and what of it is read while the store answers; None:
            from the messages of a followed conversation if they reach far enough, else from the
            channel, beginning with what an earlier answer needed.
        on_loaded: called with the bytes of the stored page once it is in memory; may raise.

    Raises:
        BadParameter: *conversation_id*, *until* or *page* is outside its syntax or range.
        StoreUnavailable: Postgres does not answer. (If Ably does not, that is a reason in the
            answer, not an error.)
    """
    if source is None:
        source = await _source(ctx, conversation_id, until, page)
    reading = await read(
        ctx, conversation_id, until=until, page=page, source=source, on_loaded=on_loaded
    )
    since_ms = read_from_ms(_watermark(reading.stored))
    if since_ms is not None:
        ctx.prefetches[conversation_id] = Prefetch(reading.channel, since_ms)
    if reading.timeline.counts[Outcome.FOLDED.value]:
        ctx.unrecorded.add(conversation_id)
    return answer(reading, page)


async def hydrate_message(ctx: Context, conversation_id: str, message_id: str) -> bytes:
    """Return one message as `hydrate` would show it: stored, with the channel's events since.

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation.
        message_id: the message.

    Raises:
        NotFound: there is no message with that id.
        ChannelUnavailable: the store has none, and Ably does not answer.
        StoreUnavailable: Postgres does not answer.
    """
    source = await _source(ctx, conversation_id, None, Page(1))
    reading = await read(ctx, conversation_id, page=Page(1), source=source)
    state = reading.timeline.messages.get(message_id)
    if state is not None:
        return wire.encode(state)
    body = await ctx.store.message(conversation_id, message_id)
    if body is not None:
        return body
    if any(reason.retry for reason in reading.reasons):
        raise ChannelUnavailable("the store has no such message, and Ably does not answer")
    raise NotFound(f"the conversation has no message {message_id!r}")


async def _source(
    ctx: Context, conversation_id: str, until: str | None, page: Page
) -> HistorySource:
    if page.before is not None:
        return CHANNEL
    received = ctx.followed.get(conversation_id)
    source: HistorySource | None = None if received is None else await received(until)
    return source or HistorySource(from_channel, ctx.prefetches.get(conversation_id))


# The store and the channel hold two windows of one log, and neither is enough. The store ends at
# its watermark, some seconds behind the channel; the channel forgets after its retention time.
# An answer is complete if the two windows overlap, because folding an event twice changes nothing:
# every event has a seq, a serial or an id by which its second copy is recognised. So the whole
# task is to make them overlap, or to find out that they do not.
#
# 1. Load. One statement, therefore one snapshot: the watermark and the messages that it covers
#    belong together. Loading them by two statements would let a recorder move the watermark in
#    between, and the events it folded meanwhile would be in neither part. (`_load` repeats the
#    whole statement where ephemeral tokens are still on their way to the store.)
# 2. Read history from the watermark less the margin. Not from the watermark itself:
#    two regions of the channel order the same messages differently by up to that long, and REST
#    history shows a message up to 2 s after it was delivered. An event that became visible below
#    the watermark, after the recorder had read past it, would be lost. History is not read at all
#    if the recorder's last read began at least the margin after `until`, when nothing below
#    `until` can still become visible; nor for an older page that ends below the watermark.
# 3. Decide whether the windows meet (`missed`). If nothing at or before the watermark was shown
#    and the recorder's last complete read is older than the retention time, events may have
#    expired unread. The watermark alone cannot tell: a quiet conversation looks the same as one
#    that lost an hour. Such a lost interval is a reason in the answer, and text without seqs is
#    marked inexact.
# 4. Fold, in the order of the log, on top of the stored messages. Those that an event names and
#    that are on no loaded page are loaded first, so that the event continues its message instead
#    of starting a second one.
# 5. Load once more the messages that history shows as ended but incomplete. A publisher commits
#    its text before it publishes the stop (law 7, decision 0003), so a stop in
#    history proves that the text is stored now, though it may not have been at step 1.
async def read(
    ctx: Context,
    conversation_id: str,
    *,
    until: str | None = None,
    page: Page = NEWEST,
    source: HistorySource = CHANNEL,
    on_loaded: Callable[[int], None] = lambda _: None,
) -> Reading:
    """Read the conversation that `hydrate` answers with. The arguments and errors are the same."""
    check_conversation_id(conversation_id)
    check_until(until)
    if not 1 <= page.limit <= MAX_LIMIT:
        raise BadParameter("limit", f"limit must be a number from 1 to {MAX_LIMIT}")
    read_at_ms = ctx.now_ms()
    guess = source.prefetch if may_need_read(until, read_at_ms) else None
    async with early_read(ctx, guess, read_at_ms) as early:
        stored = await _load(ctx, conversation_id, page)
        on_loaded(sum(len(row.wire) for row in stored.finished))
        channel = stored.conversation and stored.conversation.channel
        channel = channel or ctx.default_channel(conversation_id)
        if _store_suffices(stored, until, page):
            history = no_history(read_at_ms)
        else:
            may_have_grown = any(state.versioned for state in stored.open)
            watermark = _watermark(stored)
            query = HistoryQuery(channel, watermark, until, read_at_ms, may_have_grown, early)
            history = await source.read(ctx, query)
    events = since_recorded(history.events, _watermark(stored))
    timeline = await _begin(ctx, conversation_id, stored, events, page)
    reasons = _join(timeline, stored, history, until, ctx.retention_ms)
    timeline.fold(events)
    timeline.counts += history.ignored
    await _complete_ended(ctx, conversation_id, timeline, events)
    return Reading(conversation_id, channel, stored, timeline, history, reasons, ctx.token_names)


async def _load(ctx: Context, conversation_id: str, page: Page) -> Stored:
    load = partial(ctx.store.load, limit=page.limit, before=page.before, most_bytes=PAGE_BYTES)
    stored = await load(conversation_id)
    if any(state.ephemeral for state in stored.open):
        await asyncio.sleep(EPHEMERAL_LAG_S)
        stored = await load(conversation_id)
    return stored


def _watermark(stored: Stored) -> Watermark | None:
    return stored.conversation.watermark if stored.conversation else None


def _store_suffices(stored: Stored, until: str | None, page: Page) -> bool:
    """Return True if the store alone answers: it reaches *until*, or all of an older *page*."""
    watermark = _watermark(stored)
    if page.before is not None and watermark is not None and watermark.serial is not None:
        return page.before.position <= watermark.serial or needs_no_read(watermark, until)
    return needs_no_read(watermark, until)


async def _begin(
    ctx: Context, conversation_id: str, stored: Stored, events: Sequence[Event], page: Page
) -> Timeline:
    """Return a timeline of the stored messages that are open, or that *events* may belong to.

    A finished message of the page is parsed from its wire form, unless it is incomplete, or a
    repair or an edit replaces its text: such messages, and those on other pages, are loaded whole.
    """
    row = stored.conversation
    timeline = Timeline(stored.open, agents=ctx.agents, tombstone=row and row.tombstone)
    if row is None:
        return timeline
    repaired = {e.message_id for e in events if e.kind == "repair" or e.edit is not None}
    if any(event.message_id is None for event in events):
        timeline.anonymous.complete_from = None
        if page.before is None and None not in repaired:
            _add_anonymous(timeline, stored)
    lookup = timeline.lookup(events)
    if lookup.is_empty:
        return timeline
    for finished in stored.finished:
        wanted = finished.id in lookup.ids or finished.position in lookup.serials
        if wanted and finished.id not in repaired:
            state = wire.state_of(json.loads(finished.wire), position=finished.position)
            if not state.gaps():
                timeline.add(state)
    lookup = timeline.lookup(events)
    if not lookup.is_empty:
        timeline.learn(lookup, await ctx.store.states(conversation_id, lookup))
    return timeline


def _add_anonymous(timeline: Timeline, stored: Stored) -> None:
    """Add the anonymous messages of the newest page: all that began since its oldest message."""
    oldest = stored.finished[0].position if stored.more and stored.finished else ""
    for finished in stored.finished:
        if b'"anonymous":true' not in finished.wire:
            continue
        state = wire.state_of(json.loads(finished.wire), position=finished.position)
        if state.gaps():
            return
        if state.anonymous:
            timeline.add(state)
    timeline.anonymous.complete_from = oldest


def _join(
    timeline: Timeline,
    stored: Stored,
    history: HistoryWindow,
    until: str | None,
    retention_ms: int,
) -> list[Reason]:
    """Return why *timeline* may lack something, joined with *history*."""
    row = stored.conversation
    reasons = [_EXPIRED] if row and row.holes else []
    if history.failure is not None:
        reasons.append(history.failure)
    elif not history.meets_store:
        created_ms = row.created_ms if row else None
        if missed(_watermark(stored), created_ms, history.window, retention_ms):
            reasons = [_EXPIRED]  # also if the row has lost intervals: each reason occurs once
            timeline.mark_inexact()
        if not history.shows(until):
            reasons.append(_BEHIND)
    return reasons


async def _complete_ended(
    ctx: Context, conversation_id: str, timeline: Timeline, events: Sequence[Event]
) -> None:
    """Load again the messages whose end history shows, but not all of their text."""
    stopped = {event.message_id for event in events if event.kind == "stop"}
    lacking = [
        id_
        for id_ in stopped
        if id_ is not None
        and (state := timeline.messages.get(id_)) is not None
        and not state.anonymous
        and state.gaps()
    ]
    if not lacking:
        return
    for state in await ctx.store.states(conversation_id, lacking):
        timeline.add(state)
    timeline.fold(event for event in events if event.message_id in lacking)


def answer(reading: Reading, page: Page = NEWEST) -> Hydrated:
    """Return the finished messages of *page* (of those that were read), and all that is open."""
    stored, timeline, reasons = reading.stored, reading.timeline, reading.reasons
    watermark, window = _watermark(stored), reading.history.window
    rows, older = _page(stored, timeline, page.limit, page.before)
    messages = [body for _, _, body in rows]
    states = [timeline.messages[id_] for _, id_, _ in rows if id_ in timeline.messages]
    lacking = wire.WHOLE.union(*map(wire.shortcomings, messages))
    if "unreadable" in lacking:
        reasons = [*reasons, _UNREADABLE]
    if is_announced(timeline) and any(state.pointer > state.covered for state in states):
        reasons = [*reasons, _STORE_BEHIND]
    elif "not_exact" in lacking:
        reasons = [*reasons, _NOT_EXACT]
    elif timeline.refused is not None:
        reasons = [*reasons, _TOO_MANY]
    reached = (window.newest_serial, watermark and watermark.serial)
    return Hydrated(
        reading.conversation_id,
        reading.channel,
        max((serial for serial in reached if serial is not None), default=None),
        window.rewind_from,
        list({reason.code: reason for reason in reasons}.values()),
        older,
        messages,
        settled=page.before is not None and not window.count,
        counts=timeline.counts,
        exclusions=timeline.excluded.exclusions,
        token_names=reading.token_names,
    )


def is_announced(timeline: Timeline) -> bool:
    """Return True if history shows a pointer, whose text may be stored by the next read."""
    return timeline.counts[Outcome.POINTER.value] > 0


def _page(
    stored: Stored, timeline: Timeline, limit: int, before: Cursor | None
) -> tuple[list[tuple[str, str, bytes]], str | None]:
    """Return the messages of a page as (position, id, wire), and the cursor of the next page.

    The newest page has every open message (also those that are open only in the store, since older
    pages lack them), and the newest *limit* finished ones up to `PAGE_BYTES`, but at least one.
    """
    shown = {row.id: (row.position, row.id, row.wire) for row in stored.finished}
    open_ids = {state.id for state in stored.open if state.id in timeline.messages}
    for state in timeline.messages.values():
        if state.status not in TERMINAL:
            open_ids.add(state.id)
        if state.changed or state.id not in shown:
            shown[state.id] = (state.position or _LAST, state.id, b"")
    rows = sorted(shown.values())
    finished = [row for row in rows if row[1] not in open_ids]
    if before is not None:
        open_ids.clear()
        finished = [row for row in finished if row[:2] < before]
    page = [
        (at, id_, wire.encode(timeline.messages[id_])) for at, id_, _ in rows if id_ in open_ids
    ]
    left, count = PAGE_BYTES - sum(len(body) for _, _, body in page), 0
    for at, id_, stored_body in finished[: -limit - 1 : -1]:
        body = stored_body or wire.encode(timeline.messages[id_])
        left -= len(body)
        if count and left < 0:
            break
        count += 1
        page.append((at, id_, body))
    more = count and (stored.more or len(finished) > count)
    older = encode_cursor(Cursor(*page[-1][:2])) if more else None
    return sorted(page), older
