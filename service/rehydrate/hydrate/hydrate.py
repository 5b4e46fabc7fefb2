"""Hydrate: the stored conversation, folded further by the channel's history since."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.event import TERMINAL
from rehydrate.core.positions import Cursor, check_conversation_id, check_until, encode_cursor
from rehydrate.core.timeline import Reason, Timeline
from rehydrate.core.window import Window, may_need_read, missed, needs_no_read, read_from_ms
from rehydrate.errors import BadParameter
from rehydrate.hydrate.history_window import HistoryReader

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from rehydrate.context import Context
    from rehydrate.core.event import Event
    from rehydrate.ports import ResponseStore, Stored

EPHEMERAL_LAG_S = 0.7
"""How long after it was said an ephemeral token is in the store at the latest: checkpoints are half a
second apart. Who has attached before this answer was asked for then misses none between the two."""

MAX_LIMIT = 200
_LAST = "~"
"""A position behind all others: of an open message whose start has no serial yet."""


class Hydrated(NamedTuple):
    """A conversation as a client must show it before its first live message.

    ``until``: the greatest serial that the answer is known to reach. ``wires``: the messages in
    their wire form, in order. ``settled``: nothing in it is live, so it may be kept.
    ``counts``: what became of the channel's events. ``watermark_ms``: from when the next read of
    history begins.
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
    read_from_ms: int | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing beside what the messages say themselves."""
        return not self.reasons

    @property
    def body(self) -> bytes:
        """The answer as JSON."""
        return wire.answer(
            conversation_id=self.conversation_id,
            channel=self.channel,
            until=self.until,
            rewind_from=self.rewind_from,
            reasons=self.reasons,
            older=self.older,
            messages=self.wires,
        )

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, parsed."""
        return [json.loads(each) for each in self.wires]


class Reading(NamedTuple):
    """A conversation as it was read: what is stored, and what the channel said since.

    Who folds further events into ``timeline`` answers anew from it.
    """

    conversation_id: str
    channel: str
    stored: Stored
    timeline: Timeline
    window: Window
    reasons: list[Reason]

    def answer(self, limit: int, before: Cursor | None = None) -> Hydrated:
        """The newest *limit* finished messages (of those that were read), and all that is open."""
        stored, timeline, reasons = self.stored, self.timeline, self.reasons
        watermark = stored.conversation.watermark if stored.conversation else None
        rows, older = _page(stored, timeline, limit, before)
        states = [timeline.messages[id_] for _, id_, _ in rows if id_ in timeline.messages]
        if any(state.pointer > state.covered for state in states):
            behind = Reason("store_behind", retry=True, detail="a text is not stored yet")
            reasons = [*reasons, behind]
        elif any(not state.exact for state in states):
            reasons = [*reasons, Reason("not_exact", retry=False, detail="see exact: false")]
        elif timeline.refused is not None:
            reasons = [*reasons, _TOO_MANY]
        reached = (self.window.newest_serial, watermark and watermark.serial)
        return Hydrated(
            self.conversation_id,
            self.channel,
            max((serial for serial in reached if serial is not None), default=None),
            self.window.rewind_from,
            reasons,
            older,
            [body or wire.encode(timeline.messages[id_]) for _, id_, body in rows],
            settled=before is not None and not self.window.count,
            counts=timeline.counts,
            read_from_ms=read_from_ms(watermark),
        )


async def hydrate(
    ctx: Context,
    conversation_id: str,
    *,
    until: str | None = None,
    limit: int = 50,
    before: Cursor | None = None,
    since_hint_ms: int | None = None,
    walk: HistoryReader | None = None,
) -> Hydrated:
    """Return what a client must show before its first live message.

    The answer reaches at least *until* (an attach point), or 2 s before the call without it, and
    may go beyond. *before* pages finished messages backwards. *since_hint_ms*: from when history
    was last known to be needed; its first page is then asked for while the database answers.
    *walk*: what to read instead of the channel's history.

    Raises:
        BadParameter: *conversation_id*, *until* or *limit* is outside its syntax or range.
        StoreUnavailable: Postgres does not answer. (If Ably does not, that is a reason in the
            answer, not an error.)
    """
    reading = await read(
        ctx,
        conversation_id,
        walk=walk,
        until=until,
        limit=limit,
        before=before,
        since_hint_ms=since_hint_ms,
    )
    return reading.answer(limit, before)


async def read(
    ctx: Context,
    conversation_id: str,
    *,
    walk: HistoryReader | None = None,
    until: str | None = None,
    limit: int = 50,
    before: Cursor | None = None,
    since_hint_ms: int | None = None,
) -> Reading:
    """Read what `hydrate` answers with, by the steps of *walk*; raises as it does."""
    check_conversation_id(conversation_id)
    check_until(until)
    if not 1 <= limit <= MAX_LIMIT:
        raise BadParameter("limit", f"limit is a number from 1 to {MAX_LIMIT}")
    store = ctx.store
    walk = walk or HistoryReader(ctx.channel, ctx.now_ms())
    early_ms = since_hint_ms if may_need_read(until, ctx.now_ms()) else None
    early_name = "" if early_ms is None else await ctx.channel_of(conversation_id)
    async with walk.started_early(early_name, early_ms):
        stored = await store.load(conversation_id, limit=limit, before=before)
        if any(state.ephemeral for state in stored.open):
            await asyncio.sleep(EPHEMERAL_LAG_S)
            stored = await store.load(conversation_id, limit=limit, before=before)
        row = stored.conversation
        watermark = row.watermark if row else None
        name = row.channel if row else ctx.default_channel(conversation_id)
        timeline = Timeline(stored.open, agents=ctx.agents, tombstone=row and row.tombstone)
        reasons = [_hole_reason()] if row and row.holes else []
        if not _settled_before(stored, before) and not needs_no_read(watermark, until):
            walk.growing = any(state.versioned for state in stored.open)
            failed = await walk.read(name, watermark, until)
            created_ms = row.created_ms if row else None
            await _learn(timeline, stored, walk.events, conversation_id, store)
            if failed is not None:
                reasons.append(failed)
            elif not walk.joined and missed(watermark, created_ms, walk.window, ctx.retention_ms):
                reasons = [_hole_reason()]
                timeline.mark_inexact()
            if failed is None and not walk.joined and not walk.shows(until):
                reasons.append(_BEHIND)
            timeline.fold(walk.events)
            await _fill(timeline, walk.events, conversation_id, store)
            timeline.counts += walk.counts
    return Reading(conversation_id, name, stored, timeline, walk.window, reasons)


_BEHIND = Reason(
    "history_unavailable", retry=True, detail="the channel's history does not show `until` yet"
)


_TOO_MANY = Reason(
    "not_exact", retry=False, detail="more responses were begun than may be open at once"
)


def _settled_before(stored: Stored, before: Cursor | None) -> bool:
    """Whether a page further back lies wholly in what is recorded."""
    watermark = stored.conversation.watermark if stored.conversation else None
    if before is None or watermark is None or watermark.serial is None:
        return False
    return before.position <= watermark.serial


async def _learn(
    timeline: Timeline,
    stored: Stored,
    events: Iterable[Event],
    conversation_id: str,
    store: ResponseStore,
) -> None:
    """Give *timeline* the stored messages that *events* speak of and it does not know.

    A finished message of the page is taken from its wire form, unless that has to be cut; others
    are asked for.
    """
    if stored.conversation is None:
        return
    unknown = {timeline.name(event) for event in events} - timeline.messages.keys()
    if timeline.has_anonymous:
        unknown.discard(None)
    if not unknown:
        return
    repaired = {event.message_id for event in events if event.kind == "repair"}
    for row in stored.finished:
        if not unknown.isdisjoint((row.id, row.position)) and row.id not in repaired:
            state = wire.state_of(json.loads(row.wire), position=row.position)
            if not state.gaps():
                timeline.add(state)
                unknown -= {row.id, row.position}
    if unknown:
        for state in await store.states(conversation_id, unknown):
            timeline.add(state)


async def _fill(
    timeline: Timeline, events: Iterable[Event], conversation_id: str, store: ResponseStore
) -> None:
    """Ask the store again for what the channel showed the end of, but not all of the text.

    It was committed before that end was told (law 7), and maybe after the store was read.
    """
    stopped = {event.message_id for event in events if event.kind == "stop"}
    lacking = [
        id_ for id_ in stopped if (state := timeline.messages.get(id_ or "")) and state.gaps()
    ]
    if not lacking:
        return
    for state in await store.states(conversation_id, lacking):
        timeline.add(state)
    timeline.fold(event for event in events if event.message_id in lacking)


def _page(
    stored: Stored, timeline: Timeline, limit: int, before: Cursor | None
) -> tuple[list[tuple[str, str, bytes]], str | None]:
    """The messages of the page as (position, id, wire), and the cursor of the next one.

    All that is open belongs to the newest page, beside the newest *limit* finished ones. The
    wire is empty where the channel has changed what the store knew.
    """
    shown = {row.id: (row.position, row.id, row.wire) for row in stored.finished}
    open_ids = set()
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
    cut = finished[-limit:]
    keep = {row[1] for row in cut} | open_ids
    more = bool(cut) and (stored.more or len(finished) > limit)
    older = encode_cursor(Cursor(*cut[0][:2])) if more else None
    return [row for row in rows if row[1] in keep], older


def _hole_reason() -> Reason:
    return Reason(
        "history_expired",
        retry=False,
        detail="the channel's history ended before it was read, or held more than is kept",
    )
