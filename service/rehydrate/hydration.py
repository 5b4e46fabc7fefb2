"""Hydrate: the stored conversation, folded further by the channel's history since."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.dialects import decode_all
from rehydrate.core.events import TERMINAL
from rehydrate.core.ids import (
    HISTORY_LAG_MS,
    Cursor,
    at_or_before,
    check_conversation_id,
    check_until,
    encode_cursor,
    serial_time_ms,
)
from rehydrate.core.timeline import (
    Reason,
    Timeline,
    Window,
    missed,
    needs_no_read,
    read_from_ms,
)
from rehydrate.errors import BadParameter, ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Callable, Iterable

    from rehydrate.core.events import Event
    from rehydrate.ports import ChannelLog, ResponseStore, Stored

MAX_LIMIT = 200
HISTORY_TIMEOUT_S = 10.0
"""How long an answer waits for the channel before it goes out as the stored part alone."""

_LAST = "~"
"""A position behind all others: of an open message whose start has no serial yet."""

_CATCHING_UP_S = (0.05, 0.15)
"""When to read again where history does not show ``until`` yet: it lags by about 100 ms."""


class Rules(NamedTuple):
    """What an act knows of its surroundings.

    ``retention_ms``: how long the channel keeps history. ``agents``: the clientIds that may
    publish responses; empty: any. ``now_ms``: the clock, ms since 1970.
    """

    retention_ms: int
    agents: frozenset[str]
    now_ms: Callable[[], int]


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


async def hydrate(
    conversation_id: str,
    *,
    store: ResponseStore,
    channel: ChannelLog,
    channel_name: str,
    rules: Rules,
    until: str | None = None,
    limit: int = 50,
    before: Cursor | None = None,
    since_hint_ms: int | None = None,
) -> Hydrated:
    """Return what a client must show before its first live message.

    The answer reaches at least *until* (an attach point), or 2 s before the call without it, and
    may go beyond. *before* pages finished messages backwards. *since_hint_ms*: from when history
    was last known to be needed; its first page is then asked for while the database answers.

    Raises:
        BadParameter: *conversation_id*, *until* or *limit* is outside its syntax or range.
        StoreUnavailable: Postgres does not answer. (If Ably does not, that is a reason in the
            answer, not an error.)
    """
    check_conversation_id(conversation_id)
    check_until(until)
    if not 1 <= limit <= MAX_LIMIT:
        raise BadParameter("limit", f"limit is a number from 1 to {MAX_LIMIT}")
    walk = Walk(channel, rules.now_ms())
    async with walk.started_early(channel_name, since_hint_ms):
        stored = await store.load(conversation_id, limit=limit, before=before)
        row = stored.conversation
        watermark = row.watermark if row else None
        name = row.channel if row else channel_name
        timeline = Timeline(stored.open, agents=rules.agents, tombstone=row and row.tombstone)
        reasons = [_hole_reason()] if row and row.holes else []
        if not _settled_before(stored, before) and not needs_no_read(watermark, until):
            failed = await walk.read(name, read_from_ms(watermark), until)
            created_ms = row.created_ms if row else None
            await _learn(timeline, stored, walk.events, conversation_id, store)
            if failed is not None:
                reasons.append(failed)
            elif missed(watermark, created_ms, walk.window, rules.retention_ms):
                reasons.append(_hole_reason())
                timeline.lost()
            timeline.fold(walk.events)
    asked = _Asked(conversation_id, name, limit, before)
    return _answer(asked, stored, timeline, walk.window, reasons)


class Walk:
    """One walk through the channel's history, oldest message first."""

    def __init__(self, channel: ChannelLog, now_ms: int) -> None:
        self._channel = channel
        self._early: tuple[str, int, asyncio.Task[None]] | None = None
        self.window = Window(now_ms)
        self.events: list[Event] = []
        self.reached = False

    @asynccontextmanager
    async def started_early(self, name: str, since_ms: int | None) -> AsyncIterator[None]:
        """Begin to read before it is known from when; ended with the block."""
        if since_ms is None:
            yield
            return
        task = asyncio.create_task(self._read(name, since_ms))
        self._early = (name, since_ms, task)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def read(self, name: str, since_ms: int | None, until: str | None) -> Reason | None:
        """Read from *since_ms* to the end, and again while *until* is young and not shown.

        Returns why it could not be read, or None.
        """
        try:
            async with asyncio.timeout(HISTORY_TIMEOUT_S):
                await self._read_or_join(name, since_ms)
                for pause_s in _CATCHING_UP_S:
                    if self._shows(until):
                        break
                    await asyncio.sleep(pause_s)
                    await self._read(name, (self.window.newest_ms or 0) - HISTORY_LAG_MS)
        except ChannelRefused as error:
            return Reason("history_refused", retry=False, detail=f"Ably error {error.ably_code}")
        except (ChannelUnavailable, TimeoutError):
            return Reason("history_unavailable", retry=True, detail="Ably did not answer in time")
        self.reached = True
        return None

    async def _read_or_join(self, name: str, since_ms: int | None) -> None:
        if self._early is not None:
            early_name, early_ms, task = self._early
            if early_name == name and since_ms is not None and early_ms <= since_ms:
                await task
                return
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.window, self.events = Window(self.window.read_at_ms), []
        await self._read(name, since_ms)

    async def _read(self, name: str, since_ms: int | None) -> None:
        since_ms = None if since_ms is None else max(0, since_ms)
        pages = self._channel.history(name, since_ms=since_ms, forwards=True)
        async with aclosing(pages) as walk:
            async for page in walk:
                self.window.take(page)
                self.events.extend(decode_all(page))

    def _shows(self, until: str | None) -> bool:
        """Whether history may be taken to reach *until*: it shows it, or had time to."""
        if until is None:
            return True
        newest = self.window.newest_serial
        if newest is not None and at_or_before(until, newest):
            return True
        until_ms = serial_time_ms(until)
        return until_ms is None or until_ms + HISTORY_LAG_MS <= self.window.read_at_ms


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

    A finished message of the page is taken from its wire form; others are asked for.
    """
    if stored.conversation is None:
        return
    unknown = {event.message_id for event in events} - timeline.messages.keys()
    if timeline.has_anonymous:
        unknown.discard(None)
    if not unknown:
        return
    for row in stored.finished:
        if row.id in unknown:
            state = wire.state_of(json.loads(row.wire))
            if not state.gaps():
                state.position = row.position
                timeline.add(state)
                unknown.discard(row.id)
    if unknown:
        for state in await store.states(conversation_id, unknown):
            timeline.add(state)


class _Asked(NamedTuple):
    conversation_id: str
    channel: str
    limit: int
    before: Cursor | None


def _answer(
    asked: _Asked, stored: Stored, timeline: Timeline, window: Window, reasons: list[Reason]
) -> Hydrated:
    watermark = stored.conversation.watermark if stored.conversation else None
    rows, older = _page(asked, stored, timeline)
    states = [timeline.messages[id_] for _, id_, _ in rows if id_ in timeline.messages]
    if any(state.pointer > state.covered for state in states):
        reasons = [*reasons, Reason("store_behind", retry=True, detail="a text is not stored yet")]
    elif any(not state.exact for state in states):
        reasons = [*reasons, Reason("not_exact", retry=False, detail="see exact: false")]
    reached = (window.newest_serial, watermark and watermark.serial)
    return Hydrated(
        asked.conversation_id,
        asked.channel,
        max((serial for serial in reached if serial is not None), default=None),
        window.rewind_from,
        reasons,
        older,
        [body or wire.encode(timeline.messages[id_]) for _, id_, body in rows],
        settled=asked.before is not None and not window.count,
        counts=timeline.counts,
        read_from_ms=read_from_ms(watermark),
    )


def _page(
    asked: _Asked, stored: Stored, timeline: Timeline
) -> tuple[list[tuple[str, str, bytes]], str | None]:
    """The messages of the page as (position, id, wire), and the cursor of the next one.

    All that is open belongs to the newest page, beside the newest ``limit`` finished ones. The
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
    if asked.before is not None:
        open_ids.clear()
        finished = [row for row in finished if row[:2] < asked.before]
    cut = finished[-asked.limit :]
    keep = {row[1] for row in cut} | open_ids
    more = bool(cut) and (stored.more or len(finished) > asked.limit)
    older = encode_cursor(Cursor(*cut[0][:2])) if more else None
    return [row for row in rows if row[1] in keep], older


def _hole_reason() -> Reason:
    return Reason(
        "history_expired", retry=False, detail="the channel's history ended before it was read"
    )
