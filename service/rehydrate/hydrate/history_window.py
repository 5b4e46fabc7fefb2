"""The part of a channel's history that a hydrate needs, read into a value."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import HISTORY_LAG_MS, at_or_before, serial_time_ms
from rehydrate.core.timeline import Reason, ignored
from rehydrate.core.window import Watermark, Window, read_from_ms
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rehydrate.context import Context, Prefetch
    from rehydrate.core.event import ChannelMessage, Event

HISTORY_TIMEOUT_S = 10.0
"""How long a hydrate waits for the channel before it answers with the stored part alone."""

_RETRY_AFTER_S = (0.05, 0.15)
"""When to read again if history does not show ``until`` yet: it lags by about 100 ms."""


class HistoryWindow(NamedTuple):
    """Channel events since the store's watermark, and the period that they cover.

    Attributes:
        events: the events, as history showed them.
        window: the times and serials of the messages that were read.
        ignored: how many messages no codec recognised, by outcome.
        meets_store: the events are known to continue the store's, so no gap has to be looked for.
        complete_from_ms: no event since this time, in ms, is missing; None: unknown.
        rewound: the events are those that an attach rewound.
        received: how many of the events, the last ones, were received live and not read.
        seam_shown: history shows the message at the attach point, after which those follow.
        failure: why history could not be read to its end; None: it could.
    """

    events: Sequence[Event]
    window: Window
    ignored: Counter[str]
    meets_store: bool = False
    complete_from_ms: int | None = None
    rewound: bool = False
    received: int = 0
    seam_shown: bool = False
    failure: Reason | None = None

    def shows(self, until: str | None) -> bool:
        """Return True if history includes *until*, or has had time to show it."""
        return _shows(self.window, until)


def no_history(read_at_ms: int) -> HistoryWindow:
    """Return the window for a request that the store answers alone."""
    return HistoryWindow((), Window(read_at_ms), Counter(), meets_store=True)


class HistoryQuery(NamedTuple):
    """The part of a channel's history to read, and how far the store has recorded it.

    Attributes:
        channel: the channel to read.
        watermark: how far the store has recorded the channel; None: not at all.
        until: the attach point that the answer must reach; None: 2 s before the request.
        read_at_ms: when the request arrived, ms since 1970. Everything published by then, less
            the lag of history, is expected to be in the window.
        may_have_grown: the store has appended messages whose next versions history lists where
            the message was created, however long ago.
        early: a read that began before the store answered.
        attach_point: read history up to this channelSerial and no further (``untilAttach``, RTL10b);
            the caller's attachment delivers every message after it. None: read to the end.
    """

    channel: str
    watermark: Watermark | None
    until: str | None
    read_at_ms: int
    may_have_grown: bool
    early: EarlyRead | None = None
    attach_point: str | None = None


class HistorySource(NamedTuple):
    """Where a hydrate reads history from.

    Attributes:
        read: reads the queried history: `from_channel`, or from the messages a follower received.
        prefetch: the history to start reading from the channel while the store answers; None: none.
    """

    read: Callable[[Context, HistoryQuery], Awaitable[HistoryWindow]]
    prefetch: Prefetch | None = None


class _Pages:
    """What a read has shown so far, page by page; read in part if it fails."""

    def __init__(self, read_at_ms: int, token_names: frozenset[str]) -> None:
        self.window = Window(read_at_ms)
        self._token_names = token_names
        self.events: list[Event] = []
        self.ignored: Counter[str] = Counter()

    def add(self, page: Sequence[ChannelMessage]) -> None:
        events = list(decode_all(page, self._token_names))
        self.window.add_page(page)
        self.events.extend(events)
        self.ignored += ignored(page, events)


class EarlyRead(NamedTuple):
    """A read of history that runs while the store answers."""

    prefetch: Prefetch
    pages: _Pages
    task: asyncio.Task[None]

    def serves(self, query: HistoryQuery) -> bool:
        """Return True if it reads what *query* asks for, or more."""
        guess, since_ms = self.prefetch, read_from_ms(query.watermark)
        if (guess.channel, guess.attach_point) != (query.channel, query.attach_point):
            return False
        return since_ms is not None and guess.since_ms <= since_ms


@asynccontextmanager
async def early_read(
    ctx: Context, prefetch: Prefetch | None, read_at_ms: int
) -> AsyncIterator[EarlyRead | None]:
    """Read history from *prefetch* on while the block runs; None if there is no guess.

    Most requests need history since nearly the same time as the request before them, and the
    store says so only after a round trip. Reading early overlaps the two. A wrong guess costs one
    read: `from_channel` uses this one only if it covers everything since the watermark.
    """
    if prefetch is None:
        yield None
        return
    pages = _Pages(read_at_ms, ctx.token_names)
    reading = _read(ctx, pages, prefetch.channel, prefetch.since_ms, prefetch.attach_point)
    task = asyncio.create_task(reading, name="reading history early")
    try:
        yield EarlyRead(prefetch, pages, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def from_channel(ctx: Context, query: HistoryQuery) -> HistoryWindow:
    """Read the channel's history since the watermark, less the overlap margin, to its end.

    While ``until`` is young and not shown yet, the end is read again. A failure is in the window,
    with the pages that were read before it.
    """
    since_ms = read_from_ms(query.watermark)
    early, pages, failure = query.early, _Pages(query.read_at_ms, ctx.token_names), None
    if early is not None and early.serves(query):
        pages = early.pages
    else:
        early = None
    try:
        async with asyncio.timeout(HISTORY_TIMEOUT_S):
            if early:
                await early.task
            else:
                await _read(ctx, pages, query.channel, since_ms, query.attach_point)
            for pause_s in _RETRY_AFTER_S:
                if _shows(pages.window, query.until):
                    break
                await asyncio.sleep(pause_s)
                newest_ms = pages.window.newest_ms or 0
                await _read(ctx, pages, query.channel, newest_ms - HISTORY_LAG_MS)
    except ChannelRefused as error:
        failure = Reason("history_refused", retry=False, detail=f"Ably error {error.ably_code}")
    except (ChannelUnavailable, TimeoutError):
        failure = Reason("history_unavailable", retry=True, detail="Ably did not answer in time")
    return HistoryWindow(
        pages.events,
        pages.window,
        pages.ignored,
        complete_from_ms=(since_ms or 0) if failure is None else None,
        failure=failure,
    )


async def _read(
    ctx: Context,
    pages: _Pages,
    channel: str,
    since_ms: int | None,
    attach_point: str | None = None,
) -> None:
    """Add the pages of history to *pages*, oldest first.

    Up to an attach point Ably pages backwards only. Those pages are added once all were read: a
    part of them would leave a hole below it.
    """
    since_ms = None if since_ms is None else max(0, since_ms)
    if attach_point is None:
        history = ctx.channel.history(channel, since_ms=since_ms, forwards=True)
        async with aclosing(history) as found:
            async for page in found:
                pages.add(page)
        return
    history = ctx.channel.history(channel, since_ms=since_ms, until=attach_point)
    async with aclosing(history) as found:
        newest_first = [page async for page in found]
    for page in reversed(newest_first):
        pages.add(page)


def _shows(window: Window, until: str | None) -> bool:
    if until is None:
        return True
    newest = window.newest_serial
    if newest is not None and at_or_before(until, newest):
        return True
    until_ms = serial_time_ms(until)
    return until_ms is None or until_ms + HISTORY_LAG_MS <= window.read_at_ms


CHANNEL = HistorySource(from_channel)
"""Read from the channel, once the store has answered."""
