"""Windows of one log: the store's, up to its watermark, and the one that a read of history showed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.positions import HISTORY_LAG_MS, MARGIN_MS, serial_time_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rehydrate.core.event import ChannelMessage
    from rehydrate.core.text.versioned_messages import VersionedHeader

REWIND_REACH_MS = 110_000
"""How old a serial may be for a reader to rewind to it: Ably holds 2 minutes, less a little."""


class Watermark(NamedTuple):
    """Up to where channel history is folded into the store.

    ``serial`` and ``timestamp_ms`` are of the newest message folded; ``read_at_ms`` is when a read
    last reached the end of history.
    """

    serial: str | None
    timestamp_ms: int
    read_at_ms: int


class LostInterval(NamedTuple):
    """A time, in ms, of which something is lost.

    History had expired before it was read, or responses began that were over `MAX_OPEN`.
    """

    from_ms: int
    to_ms: int


def spanned(*intervals: LostInterval | None) -> LostInterval | None:
    """One interval from the first to the last of *intervals*; None if there are none."""
    known = [interval for interval in intervals if interval is not None]
    if not known:
        return None
    return LostInterval(
        min(interval.from_ms for interval in known), max(interval.to_ms for interval in known)
    )


class Window:
    """What a walk through channel history has shown, page by page, oldest first.

    Args:
        read_at_ms: when the walk began; it shows at least what was published by then, less the lag.
    """

    def __init__(self, read_at_ms: int) -> None:
        self.read_at_ms = read_at_ms
        self.oldest_ms: int | None = None
        self.newest_ms: int | None = None
        self.newest_serial: str | None = None
        self.rewind_from: str | None = None
        """A serial a little before the end, for a reader to rewind to: the newest that is older
        than the margin, so that whatever was to come before it has come, and not the newest of
        all, so that he sees one that the answer has; None if Ably does not hold it any more."""
        self._settled: list[str] = []
        self.count = 0

    def add_page(self, messages: Sequence[ChannelMessage]) -> None:
        """Note the next page."""
        if not messages:
            return
        self.count += len(messages)
        times = [m.timestamp_ms for m in messages]
        self.oldest_ms = min(times) if self.oldest_ms is None else min(self.oldest_ms, *times)
        self.newest_ms = max(times) if self.newest_ms is None else max(self.newest_ms, *times)
        serials = [m.serial for m in messages if m.serial is not None]
        self.newest_serial = _greatest(self.newest_serial, *serials)
        settled = (self.read_at_ms - REWIND_REACH_MS, self.read_at_ms - MARGIN_MS)
        low, high = settled
        old = [m.serial for m in messages if m.serial and low <= m.timestamp_ms <= high]
        self._settled = sorted({*self._settled, *old})[-2:]
        self.rewind_from = _greatest(*(s for s in self._settled if s != self.newest_serial))


def _greatest(*serials: str | None) -> str | None:
    return max((serial for serial in serials if serial is not None), default=None)


def read_from_ms(watermark: Watermark | None) -> int | None:
    """From when history has to be read, in ms; None: from its beginning."""
    return None if watermark is None else max(0, watermark.timestamp_ms - MARGIN_MS)


def needs_no_read(watermark: Watermark | None, until: str | None) -> bool:
    """Whether the store alone reaches *until*: it was read later than that, by the margin."""
    if watermark is None or until is None:
        return False
    until_ms = serial_time_ms(until)
    return until_ms is not None and until_ms + MARGIN_MS <= watermark.read_at_ms


def may_need_read(until: str | None, now_ms: int) -> bool:
    """Whether *until* is too young for any store to reach it by now: False if one may."""
    until_ms = None if until is None else serial_time_ms(until)
    return until_ms is None or until_ms + MARGIN_MS > now_ms


def missed(
    watermark: Watermark | None, created_ms: int | None, window: Window, retention_ms: int
) -> LostInterval | None:
    """What lies between the store's window and *window* that nobody saw; None if they meet.

    They meet if history showed a message at or before the watermark, or if the last read that
    reached the end of history is young enough for all since then to be retained still. A
    conversation without a watermark was last known whole when it was created (*created_ms*); one
    without a row is taken as whole, unless its history begins at the very edge of retention.
    """
    oldest_ms = window.read_at_ms if window.oldest_ms is None else window.oldest_ms
    edge_ms = window.read_at_ms - retention_ms
    if watermark is not None:
        shown = oldest_ms <= watermark.timestamp_ms
        known_ms = watermark.read_at_ms
    elif created_ms is not None:
        shown, known_ms = oldest_ms <= created_ms, created_ms
    else:
        shown, known_ms = oldest_ms > edge_ms + MARGIN_MS, 0
    if shown or known_ms - HISTORY_LAG_MS >= edge_ms:
        return None
    return LostInterval(max(0, known_ms - HISTORY_LAG_MS), max(oldest_ms, known_ms))


def advanced(
    watermark: Watermark | None,
    window: Window,
    *,
    at_end: bool,
    growing: VersionedHeader | None = None,
    retention_ms: int = 0,
) -> Watermark:
    """The watermark after what *window* has shown was folded; it never goes back.

    ``at_end``: the walk reached the end of history, so ``read_at_ms`` moves too. ``growing``: the
    oldest channel message that may still grow: it lies in history where it was created, so the next
    walk must begin there, if history is kept for as long (*retention_ms*).
    """
    old = watermark or Watermark(None, 0, 0)
    read_at_ms = max(old.read_at_ms, window.read_at_ms) if at_end else old.read_at_ms
    newest_ms = window.newest_ms
    if newest_ms is None:
        newest_ms = window.read_at_ms if watermark is None else 0
    newest_serial = window.newest_serial
    if growing is not None and window.read_at_ms - retention_ms <= growing.at_ms < newest_ms:
        newest_ms, newest_serial = growing.at_ms, growing.serial
    return Watermark(
        _greatest(old.serial, newest_serial),
        max(old.timestamp_ms, newest_ms),
        read_at_ms,
    )
