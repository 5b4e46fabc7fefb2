"""Walks that need no history: over what an attachment has shown, where that reaches the store."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.window import Window, read_from_ms
from rehydrate.hydrate.history_window import HistoryReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.core.timeline import Reason
    from rehydrate.core.window import Watermark
    from rehydrate.ports import ChannelLog

MOST_EVENTS = 5_000
"""How many events are kept of a conversation while it is followed."""

MOST_GROWN = 200
"""How many channel messages that grow are kept."""

_BACKLOG_MS = 2_000
"""Clocks differ: a message so young at the attach may still be one that was rewound."""


def reaches(watermark: Watermark | None, from_ms: int) -> bool:
    """Whether all since *from_ms*, added to what is stored at *watermark*, leaves nothing out.

    Stored is what was published up to the margin before the last read, and up to the margin before
    the newest message of it.
    """
    if watermark is None:
        return from_ms == 0
    return from_ms <= max(watermark.read_at_ms - MARGIN_MS, read_from_ms(watermark) or 0)


class RewoundMessages(NamedTuple):
    """Events of a channel, and from when on they are all there were; None: nobody knows."""

    events: list[Event]
    from_ms: int | None


class RecentMessages:
    """What one attachment has shown of a channel, and what was read before it, oldest first out.

    Args:
        rewind_ms: how far an attach rewinds.
        rewind_most: how many messages at most.

    Attributes:
        serial: the greatest that was delivered.
    """

    def __init__(self, rewind_ms: int, rewind_most: int) -> None:
        self.serial: str | None = None
        self._rewind_ms = rewind_ms
        self._rewind_most = rewind_most
        self._events: deque[Event] = deque()
        self._grown: OrderedDict[str, Event] = OrderedDict()
        self._from_ms: int | None = None
        self._attached_ms: int | None = None
        self._delivered = 0
        self._oldest_ms: int | None = None

    def attached(self, now_ms: int) -> None:
        """It was attached anew: what came before may have a hole behind it."""
        self._from_ms, self._oldest_ms = None, None
        self._attached_ms, self._delivered = now_ms, 0

    def detached(self) -> None:
        """Nothing comes any more."""
        self._from_ms = self._attached_ms = None

    def note(self, message: ChannelMessage) -> bool:
        """Note what was delivered; False if the attach cannot have rewound as far as it should.

        That shows when as many messages have come as it rewinds at most, and are old enough.
        """
        if message.serial is not None and (self.serial is None or message.serial > self.serial):
            self.serial = message.serial
        at_ms = message.timestamp_ms
        self._delivered += 1
        if self._oldest_ms is None or at_ms < self._oldest_ms:
            self._oldest_ms = at_ms
        attached_ms = self._attached_ms or 0
        return self._delivered != self._rewind_most or at_ms > attached_ms + _BACKLOG_MS

    def add(self, event: Event) -> None:
        """Take in the next one; of a channel message that grows, the whole of it."""
        if event.version is not None and event.serial is not None:
            self._grow(event.serial, event)
            return
        self._events.append(event)
        if len(self._events) > MOST_EVENTS:
            gone_ms = self._events.popleft().timestamp_ms
            if self._from_ms is not None:
                self._from_ms = max(self._from_ms, gone_ms + 1)

    def _grow(self, serial: str, event: Event) -> None:
        known = self._grown.get(serial)
        if known is None or _version(known) <= _version(event):
            self._grown[serial] = event
            self._grown.move_to_end(serial)
        if len(self._grown) > MOST_GROWN:
            self._grown.popitem(last=False)
            self._from_ms = None

    def know(self, events: Sequence[Event], from_ms: int | None) -> None:
        """What is here, with *events* before it, is all since *from_ms*."""
        heard, self._events = self._events, deque()
        self._from_ms = from_ms
        for event in (*events, *heard):
            self.add(event)

    def since(self, from_ms: int) -> list[Event]:
        """What was heard, or read, and is not older than *from_ms*."""
        return self._all(from_ms)

    @property
    def is_cut(self) -> bool:
        """Whether so many messages have come that the attach may not have rewound them all."""
        return self._delivered >= self._rewind_most

    def meets(self, history: Window) -> bool:
        """Whether *history* reaches what was rewound, as far as that can be told."""
        if not self.is_cut or self._oldest_ms is None:
            return True
        return history.newest_ms is not None and history.newest_ms >= self._oldest_ms

    def rewound(self) -> RewoundMessages:
        """What was heard, and since when nothing is missing from it."""
        from_ms = self._from_ms
        if from_ms is None and self._attached_ms is not None:
            from_ms = self._attached_ms - self._rewind_ms
            if self.is_cut:
                from_ms = max(from_ms, self._oldest_ms or 0)
        return RewoundMessages(self._all(0), from_ms)

    def events(self, watermark: Watermark | None) -> list[Event] | None:
        """All since *watermark* less the margin, and perhaps more; None if that is not known."""
        if self._from_ms is None or not reaches(watermark, self._from_ms):
            return None
        return self._all(read_from_ms(watermark) or 0)

    def _all(self, since_ms: int) -> list[Event]:
        young = [event for event in self._events if event.timestamp_ms >= since_ms]
        return [*self._grown.values(), *young]  # when one has grown, its time does not say


class RecentHistory(HistoryReader):
    """A walk over what a followed conversation has heard; over history where that is not enough.

    Args:
        channel: whose history is read then.
        now_ms: when it begins.
        recent: what was heard.
    """

    def __init__(self, channel: ChannelLog, now_ms: int, recent: RecentMessages) -> None:
        super().__init__(channel, now_ms)
        self._recent = recent

    async def read(
        self, name: str, watermark: Watermark | None, until: str | None
    ) -> Reason | None:
        """Take what was heard."""
        events = self._recent.events(watermark)
        if events is None:
            return await super().read(name, watermark, until)
        _show(self, events)
        serial, newest = self._recent.serial, self.window.newest_serial
        if serial is not None and (newest is None or serial > newest):
            self.window.newest_serial = serial
        return None


class RewoundHistory(HistoryReader):
    """A walk over what an attach has rewound, before or after history is tried.

    Args:
        channel: whose history is read.
        now_ms: when it begins.
        rewound: what the attach has shown, asked when it is needed.
        first: take that first, and history only where it does not reach what is stored.

    Attributes:
        by_rewind: what was rewound was enough; ``from_ms``: since when it has all.
    """

    def __init__(
        self,
        channel: ChannelLog,
        now_ms: int,
        rewound: Callable[[], RewoundMessages],
        *,
        first: bool,
    ) -> None:
        super().__init__(channel, now_ms)
        self._rewound = rewound
        self._first = first
        self.by_rewind = False
        self.from_ms: int | None = None

    async def read(
        self, name: str, watermark: Watermark | None, until: str | None
    ) -> Reason | None:
        """Take what was rewound, or read history; the other if the one does not do."""
        if self._first and self._take(watermark):
            return None
        failed = await super().read(name, watermark, until)
        return None if failed is not None and self._take(watermark) else failed

    def _take(self, watermark: Watermark | None) -> bool:
        """Take what was rewound, if it reaches what is stored.

        Of a channel message that grows only those are rewound that were created lately.
        """
        rewound = self._rewound()
        if self.growing or rewound.from_ms is None or not reaches(watermark, rewound.from_ms):
            return False
        self.window, self.events = Window(self.window.read_at_ms), []
        _show(self, rewound.events)
        self.by_rewind, self.from_ms = True, rewound.from_ms
        return True


def _show(walk: HistoryReader, events: list[Event]) -> None:
    walk.window.take(events)  # type: ignore[arg-type] # it looks at times and serials alone
    walk.events.extend(events)
    walk.joined = True


def _version(event: Event) -> str:
    return "" if event.version is None else event.version.serial
