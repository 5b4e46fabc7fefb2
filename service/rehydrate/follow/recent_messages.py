"""Received messages of an attachment, used instead of history where they reach back far enough."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.positions import HISTORY_LAG_MS, MARGIN_MS
from rehydrate.core.window import Window, read_from_ms
from rehydrate.follow.event_buffer import event_bytes
from rehydrate.hydrate.history_window import HistoryWindow, from_channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.core.window import Watermark
    from rehydrate.hydrate.history_window import HistoryQuery

MAX_EVENTS = 5_000
"""How many events of a followed conversation are cached."""

MAX_GROWING = 200
"""How many growing channel messages (appends) are cached."""

MAX_BYTES = 16_000_000
"""How much memory the events may take, and again the growing messages. A channel accepts 1 MB a
second, so what arrives while history is read is never evicted.
"""

BACKLOG_TIMEOUT_S = 1.0
"""How long a read waits for the rest of a rewind before it reads history instead."""


def reaches(watermark: Watermark | None, from_ms: int) -> bool:
    """Whether every event since *from_ms* plus the stored state at *watermark* is complete.

    The store has everything published up to the margin before the last read, and up to the margin
    before the newest message that was read.
    """
    if watermark is None:
        return from_ms == 0
    return from_ms <= max(watermark.read_at_ms - MARGIN_MS, read_from_ms(watermark) or 0)


class RewoundMessages(NamedTuple):
    """Buffered events, complete since ``complete_from_ms`` (None if unknown)."""

    events: list[Event]
    complete_from_ms: int | None


class RecentMessages:
    """The messages of one attachment and of the last read before it; the oldest are evicted.

    Args:
        rewind_ms: how far an attach rewinds, in ms.
        rewind_most: how many messages an attach rewinds at most.

    Attributes:
        serial: the greatest serial that was delivered.
        is_backlog_received: all messages that the attach rewound were delivered.
    """

    def __init__(self, rewind_ms: int, rewind_most: int) -> None:
        self.serial: str | None = None
        self.is_backlog_received = False
        self._backlog_ended = asyncio.Event()
        self._rewind_ms = rewind_ms
        self._rewind_most = rewind_most
        self._events: deque[Event] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = self._growing_bytes = self._evicted_ms = 0
        self._since_attach = 0
        self._growing: OrderedDict[str, Event] = OrderedDict()
        self._from_ms: int | None = None
        self._attached_ms: int | None = None
        self._delivered = 0
        self._oldest_ms: int | None = None

    def attached(self, now_ms: int) -> None:
        """Start a new attachment: there may be a hole between it and the messages before."""
        self._from_ms, self._oldest_ms = None, None
        self._attached_ms, self._delivered = now_ms, 0
        self.is_backlog_received, self._backlog_ended = False, asyncio.Event()
        self._since_attach = 0

    def detached(self) -> None:
        """End the attachment: nothing more is delivered, so the cache is not complete any more."""
        self._from_ms = self._attached_ms = None
        self.end_backlog(proved=False)

    def end_backlog(self, *, proved: bool) -> None:
        """Note that all rewound messages were delivered, or that this cannot be proved."""
        self.is_backlog_received = proved
        self._backlog_ended.set()

    async def backlog(self) -> bool:
        """Wait until all rewound messages were delivered; False: that is not known in time."""
        try:
            async with asyncio.timeout(BACKLOG_TIMEOUT_S):
                await self._backlog_ended.wait()
        except TimeoutError:
            return False
        return self.is_backlog_received

    def count_delivery(self, message: ChannelMessage) -> None:
        """Count a delivered message.

        Ably rewinds `rewind_most` messages at most and the SDK does not report a cut (gap 6). The
        rewind may have been cut if that many messages were delivered before its end was proved.
        """
        if message.serial is not None and (self.serial is None or message.serial > self.serial):
            self.serial = message.serial
        at_ms = message.timestamp_ms
        self._delivered += not self.is_backlog_received
        if self._oldest_ms is None or at_ms < self._oldest_ms:
            self._oldest_ms = at_ms

    def append(self, event: Event) -> None:
        """Append the next event; for a growing channel message, its whole content."""
        if event.version is not None and event.serial is not None:
            self._replace_growing(event.serial, event)
            return
        self._events.append(event)
        self._sizes.append(event_bytes(event))
        self._bytes += self._sizes[-1]
        self._since_attach += 1
        while len(self._events) > MAX_EVENTS or self._bytes > MAX_BYTES:
            self._bytes -= self._sizes.popleft()
            self._evicted_ms = self._events.popleft().timestamp_ms
            if self._from_ms is not None:
                self._from_ms = max(self._from_ms, self._evicted_ms + 1)

    def _replace_growing(self, serial: str, event: Event) -> None:
        cached = self._growing.get(serial)
        if cached is None or _version(cached) <= _version(event):
            self._growing[serial] = event
            self._growing.move_to_end(serial)
            self._growing_bytes += event_bytes(event) - (event_bytes(cached) if cached else 0)
        while len(self._growing) > MAX_GROWING or self._growing_bytes > MAX_BYTES:
            self._growing_bytes -= event_bytes(self._growing.popitem(last=False)[1])
            self._from_ms = None

    def complete(self, events: Sequence[Event], from_ms: int | None) -> None:
        """Put *events* before those received: together they are complete since *from_ms*."""
        received, since_attach = self._events, self._since_attach
        self._events, self._sizes, self._bytes = deque(), deque(), 0
        self._from_ms = from_ms
        for event in (*events, *received):
            self.append(event)
        self._since_attach = since_attach

    def since(self, from_ms: int) -> list[Event]:
        """Return the cached events that are not older than *from_ms*."""
        return self._newer(from_ms)

    def since_attach(self) -> list[Event] | None:
        """Return every event received by this attachment; None if some were evicted.

        Of growing channel messages also those of earlier attachments: their versions never expire.
        """
        first = len(self._events) - self._since_attach
        if self._attached_ms is None or first < 0:
            return None
        return [*self._growing.values(), *islice(self._events, first, None)]

    @property
    def is_cut(self) -> bool:
        """Whether so many messages were delivered that the rewind may have been cut short."""
        return self._delivered >= self._rewind_most

    def may_miss_backlog(self, history: HistoryWindow) -> bool:
        """Whether rewound messages may be neither in *history* nor received yet.

        Once history has had the time to show what was published before the attach, the rewind is
        not needed any more. Before that its end has to be proved: if it was cut, messages lie
        between the end of history and the oldest rewound one, and text without seq would be joined
        over them (exactness S15).
        """
        if self.is_backlog_received or self._attached_ms is None:
            return False
        return history.window.read_at_ms < self._attached_ms + HISTORY_LAG_MS

    def meets(self, history: HistoryWindow) -> bool:
        """Whether nothing lies between *history* and the received messages, as far as is known.

        Ask this when all received events are merged. A rewind that was used instead of history
        does; whether it reaches the store was decided when its end was proved. History up to the
        attach point must show its end, and plain history must reach the oldest received message,
        unless the rewind is complete: it then covers 10 s before the attach, more than history can
        lag.
        """
        if history.rewound:
            return True
        if not self.is_cut or self._oldest_ms is None or history.seam_shown:
            return True
        newest_ms = history.window.newest_ms
        return not history.received and newest_ms is not None and newest_ms >= self._oldest_ms

    @property
    def complete_from_ms(self) -> int | None:
        """The time since which the received events are complete; None if unknown."""
        from_ms = self._from_ms
        if from_ms is None and self._attached_ms is not None:
            from_ms = self._attached_ms - self._rewind_ms
            if self.is_cut:
                from_ms = max(from_ms, self._oldest_ms or 0)
            if self._since_attach > len(self._events):
                from_ms = max(from_ms, self._evicted_ms + 1)
        return from_ms

    def rewound(self) -> RewoundMessages:
        """Return the received events, and the time since which they are complete."""
        return RewoundMessages(self._newer(0), self.complete_from_ms)

    def events(self, watermark: Watermark | None) -> list[Event] | None:
        """Return all events since *watermark* less the margin, or more; None if they may not be all."""
        if self._from_ms is None or not reaches(watermark, self._from_ms):
            return None
        return self._newer(read_from_ms(watermark) or 0)

    def _newer(self, since_ms: int) -> list[Event]:
        newer = [event for event in self._events if event.timestamp_ms >= since_ms]
        # The timestamp of a growing message is that of its create, not of its last append.
        return [*self._growing.values(), *newer]


async def from_recent(
    ctx: Context, query: HistoryQuery, *, recent: RecentMessages
) -> HistoryWindow:
    """Return what a follower has received, or read history if that does not reach the store.

    Args:
        ctx: the adapters and limits.
        query: what to read.
        recent: the received messages; their connection must have answered just now.
    """
    events = recent.events(query.watermark)
    if events is None:
        return await from_channel(ctx, query)
    since_ms = read_from_ms(query.watermark) or 0
    history = _received(query, events, since_ms)
    serial, newest = recent.serial, history.window.newest_serial
    if serial is not None and (newest is None or serial > newest):
        history.window.newest_serial = serial
    return history


async def from_rewind(
    ctx: Context, query: HistoryQuery, *, recent: RecentMessages, first: bool
) -> HistoryWindow:
    """Return what an attach has rewound, before or after history is tried.

    Args:
        ctx: the adapters and limits.
        query: what to read.
        recent: the received messages.
        first: use the rewound messages if they reach the store, and read history only if they do
            not; otherwise read history first, and use them only if that fails.
    """
    if first and await recent.backlog() and (history := _rewound(query, recent)) is not None:
        return history
    history = await from_channel(ctx, query)
    if history.failure is not None:
        return _rewound(query, recent) or history
    return history


async def from_attach_point(
    ctx: Context, query: HistoryQuery, *, recent: RecentMessages, attach_point: str
) -> HistoryWindow:
    """Read history up to the attach point, followed by the messages received since.

    The seam is exact by construction. History ends with the last message before the attach
    (``untilAttach``, RTL10b), and the attachment delivers every message after it, the rewound ones
    first: no overlap has to be recognised, and nothing can lie between the two.

    One thing can still open a gap: history that lags behind the attach by up to 2 s. The rewind of
    10 s covers that, unless it was cut at 100 messages; then the message at the attach point has to
    be in history (``seam_shown``), otherwise the caller reads again.

    If Ably refuses the attach point (90008: it is older than 2 minutes; 40024: another region
    answers), the port reads plain history, which reaches beyond it; the overlap is then dropped
    event by event, as in every other read. If history cannot be read at all, the rewound messages
    are used, provided that they reach the store.

    Args:
        ctx: the adapters and limits.
        query: what to read.
        recent: the received messages.
        attach_point: the channelSerial at which the present attachment began.
    """
    history = await from_channel(ctx, query._replace(attach_point=attach_point))
    if history.failure is not None:
        return _rewound(query, recent) or history
    received = recent.since_attach()
    if received is None:
        return history
    seam_shown = history.shows(attach_point)
    history.window.add_page(received)  # type: ignore[arg-type] # it reads times and serials only
    events = [*history.events, *received]
    return history._replace(events=events, received=len(received), seam_shown=seam_shown)


def _rewound(query: HistoryQuery, recent: RecentMessages) -> HistoryWindow | None:
    """Return the rewound messages if all of them were received and they reach the store.

    They cannot while the store has growing messages: an append to a message that was created
    before the rewind's window is not in it.
    """
    rewound = recent.rewound()
    from_ms = rewound.complete_from_ms
    if not recent.is_backlog_received or query.may_have_grown:
        return None
    if from_ms is None or not reaches(query.watermark, from_ms):
        return None
    count = len(rewound.events)
    return _received(query, rewound.events, from_ms)._replace(rewound=True, received=count)


def _received(query: HistoryQuery, events: list[Event], from_ms: int) -> HistoryWindow:
    window = Window(query.read_at_ms)
    window.add_page(events)  # type: ignore[arg-type] # it reads times and serials only
    return HistoryWindow(events, window, Counter(), meets_store=True, complete_from_ms=from_ms)


def _version(event: Event) -> str:
    return "" if event.version is None else event.version.serial
