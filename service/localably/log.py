"""A channel's log: published messages in order, for the retention time.

No input or output, and no clock of its own. Every message has one row at the place of its creation;
a newer version replaces the row's content and moves it to the end of `recent`, the order in which
the last changes were delivered, from which rewinds and resumes are read. An append that is held for
roll-up moves there again when it is delivered: a client that resumes from the position of a message
that overtook it has not received it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from .errors import RefusedError
from .messages import Message, size_bytes
from .serials import SerialClock, channel_serial_of, is_serial, milliseconds_of, moment_of

Direction = Literal["backwards", "forwards"]
_COMPACT_AFTER: Final = 1024
_IDEMPOTENCY_MS: Final = 120_000
_MOST_STATES: Final = 1000
_BYTES_PER_ROW: Final = 600  # Python's overhead per row, in addition to its text


@dataclass(frozen=True, slots=True)
class Query:
    """A page of history that is asked for.

    Attributes:
        limit: the most messages in the page.
        direction: newest first, or oldest first.
        start_ms: nothing created before it.
        end_ms: nothing created after it.
        from_serial: nothing after this channelSerial or message serial (RTL10b, inclusive).
        cursor: the serial at which the page before ended.
        visible_ms: nothing of what happened after it, for a history that lags; None for all.
    """

    limit: int
    direction: Direction = "backwards"
    start_ms: int | None = None
    end_ms: int | None = None
    from_serial: str | None = None
    cursor: str | None = None
    visible_ms: int | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Messages in the order that was asked for, and the next page's cursor, or None at the end."""

    messages: list[Message]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class MissedMessages:
    """What an attachment gets before the live messages.

    Attributes:
        groups: channelSerials with the messages delivered under them, oldest change first.
        position: the channelSerial directly before them.
        error: why it is not all that was asked for; None if it is.
    """

    groups: list[tuple[str, list[Message]]]
    position: str
    error: RefusedError | None = None


class MessageLog:
    """The messages of one channel.

    Args:
        clock: gives the serials; the first one is spent on the log's own beginning.
        retention_ms: how long a message is kept after its creation.
        now_ms: the time of the beginning.
        most_bytes: the maximum size; the oldest messages are dropped first.

    Attributes:
        floor: every change after this channelSerial is held.
        head: the newest channelSerial that was given.
    """

    def __init__(
        self, clock: SerialClock, retention_ms: int, now_ms: int, most_bytes: int = 1 << 27
    ) -> None:
        self._clock = clock
        self.retention_ms = retention_ms
        self._most_bytes = most_bytes
        self.floor = clock.next(now_ms)
        self.head = self.floor
        self.size_bytes = 0
        self._rows: list[str] = []
        self._times: list[int] = []
        self._start = 0
        self._by_serial: dict[str, Message] = {}
        self._recent: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._latest_sizes: dict[str, int] = {}
        self._ids: dict[str, tuple[str, int]] = {}  # by time, oldest first
        self._versions: dict[str, list[Message]] = {}
        self._states: dict[str, deque[Message]] = {}

    def __len__(self) -> int:
        return len(self._by_serial)

    def __contains__(self, serial: str) -> bool:
        return serial in self._by_serial

    def next_serial(self, now_ms: int) -> str:
        """Take the next channelSerial; it becomes the head."""
        self.head = self._clock.next(now_ms)
        return self.head

    def add(self, message: Message, size: int) -> None:
        """Keep a new message of *size* bytes."""
        serial = message.serial
        self._rows.append(serial)
        self._times.append(message.timestamp_ms)
        self._by_serial[serial] = message
        self._recent[serial] = message.version_serial
        self._latest_sizes[serial] = size
        self._grow(serial, size + _BYTES_PER_ROW)

    def replace(self, message: Message, size: int, *, keep_version: bool) -> None:
        """Put a newer version in its message's row; *keep_version* remembers the one before."""
        serial = message.serial
        before = self._by_serial[serial]
        if keep_version:
            self._versions.setdefault(serial, []).append(before)
        self._by_serial[serial] = message
        self._recent.pop(serial)
        self._recent[serial] = message.version_serial
        replaced = -_BYTES_PER_ROW if keep_version else self._latest_sizes[serial]
        self._latest_sizes[serial] = size
        self._grow(serial, size - replaced)

    def place_at_end(self, serial: str, now_ms: int) -> str:
        """Make the last change of a message the channel's newest, and return its channelSerial."""
        if channel_serial_of(self._recent.get(serial, "")) == self.head:
            return self.head
        position = self.next_serial(now_ms)
        if self._recent.pop(serial, None) is not None:
            self._recent[serial] = f"{position}:000"
        return position

    def restore(self, versions: list[tuple[Message, int]], floor: str | None, now_ms: int) -> None:
        """Load stored messages: versions by serial, with their sizes in bytes.

        Everything after *floor*, or within the retention, counts as held.
        """
        for message, size in versions:
            before = self._by_serial.get(message.serial)
            if before is None:
                self.add(message, size)
            else:
                separate = not (before.appended and message.appended)
                self.replace(message, size, keep_version=separate)
        latest = sorted((version, serial) for serial, version in self._recent.items())
        self._recent = {serial: version for version, serial in latest}
        newest_ms = milliseconds_of(latest[-1][0]) if latest else 0
        self._clock.skip_to(newest_ms)
        self.head = self._clock.next(now_ms)
        oldest_ms = max(0, now_ms - self.retention_ms)
        self.floor = floor or f"{oldest_ms:014d}-000@{self._clock.series}"
        self.prune(now_ms)

    def keep_state(self, message: Message) -> None:
        """Keep a former state of a message that is not a version, for delayed history."""
        states = self._states.setdefault(message.serial, deque())
        states.append(message)
        self._grow(message.serial, self._latest_sizes[message.serial])
        if len(states) > _MOST_STATES:
            self._grow(message.serial, -size_bytes(states.popleft().fields))

    def find(self, serial: str) -> Message | None:
        """Return the latest version of a message, None if it is not held."""
        return self._by_serial.get(serial)

    def versions(self, serial: str) -> list[Message]:
        """Return the versions that are held of a message, oldest first."""
        latest = self._by_serial.get(serial)
        if latest is None:
            return []
        return [*self._versions.get(serial, ()), latest]

    def remember(self, own_id: str, serial: str, at_ms: int) -> None:
        """Remember the (version) serial of what was published with *own_id*, for two minutes (RSL1k).

        Apart from the messages: of a row of appends only the last is kept, and of an ephemeral
        message nothing, but neither may be published twice.
        """
        self._ids.pop(own_id, None)
        self._ids[own_id] = (serial, at_ms)
        while next(iter(self._ids.values()))[1] < at_ms - _IDEMPOTENCY_MS:
            del self._ids[next(iter(self._ids))]

    def published_as(self, own_id: str, now_ms: int) -> str | None:
        """Return the (version) serial that was published with *own_id* within two minutes."""
        known = self._ids.get(own_id)
        return known[0] if known is not None and known[1] >= now_ms - _IDEMPOTENCY_MS else None

    def prune(self, now_ms: int) -> None:
        """Drop messages older than the retention, and the oldest when memory is full."""
        oldest_ms = now_ms - self.retention_ms
        start = self._start
        while start < len(self._rows) and (
            self._times[start] <= oldest_ms or self.size_bytes > self._most_bytes
        ):
            self._forget(self._rows[start])
            start += 1
        self._start = start
        if start > _COMPACT_AFTER and start * 2 > len(self._rows):
            del self._rows[:start]
            del self._times[:start]
            self._start = 0

    def clear(self) -> None:
        """Forget everything now, as if its retention had ended."""
        for serial in self._rows[self._start :]:
            self._forget(serial)
        self._rows.clear()
        self._times.clear()
        self._start = 0

    def history(self, query: Query) -> LogPage:
        """Return one page, each message in its latest version at the place of its creation."""
        low, high = self._window(query)
        if query.direction == "forwards":
            if query.cursor is not None:
                low = max(low, bisect_right(self._rows, query.cursor, self._start))
            chosen = self._rows[low : min(high, low + query.limit)]
            more = low + query.limit < high
        else:
            if query.cursor is not None:
                high = min(high, bisect_left(self._rows, query.cursor, self._start))
            chosen = self._rows[max(low, high - query.limit) : max(high, low)][::-1]
            more = high - query.limit > low
        messages = [self._seen_at(serial, query.visible_ms) for serial in chosen]
        return LogPage(messages, chosen[-1] if more and chosen else None)

    def newest(self, limit: int | None, since_ms: int | None, cap: int) -> MissedMessages:
        """Return the newest messages by last change: at most *limit*, changed at *since_ms* or after."""
        found: list[Message] = []
        wanted = cap if limit is None else min(limit, cap)
        for serial, version in reversed(self._recent.items()):
            message = self._by_serial[serial]
            if since_ms is not None and message.fields["version"]["timestamp"] < since_ms:
                return self._backlog(found, version)
            if len(found) == wanted:
                capped = wanted == cap and (limit is None or limit > cap)
                return self._backlog(found, version, _limit_error(cap) if capped else None)
            found.append(message)
        return self._backlog(found, self.floor)

    def after(self, serial: str, cap: int, since_ms: int | None = None) -> MissedMessages:
        """Return every change after *serial*; if some have expired, the rest and an error.

        Args:
            serial: a channelSerial or a message's serial.
            cap: the most messages.
            since_ms: the beginning of the window in which continuity can be shown; changes before
                it count as expired also where history still has them. None: no such window.

        The errors are those of continuity: 90003 expired, 90004 too many, 90005 another series.
        """
        position = channel_serial_of(serial)
        if not is_serial(serial):
            error = RefusedError(90003, "the position is not a known one", 404)
            return self._with_error(error, cap, since_ms)
        expired = RefusedError(90003, "messages since then have expired", 404)
        if moment_of(position) < moment_of(self.floor):
            return self._with_error(expired, cap, since_ms)
        if moment_of(position) > moment_of(self.head):
            error = RefusedError(90005, "the position is of another series of this channel", 404)
            return MissedMessages([], self.head, error)
        found: list[Message] = []
        for create, version in reversed(self._recent.items()):
            # a position that is a message's serial lies between the messages of one publish
            if version <= serial or (serial == position and channel_serial_of(version) <= position):
                break
            if since_ms is not None and milliseconds_of(version) < since_ms:
                return self._backlog(found, version, expired)
            if len(found) == cap:
                return self._backlog(found, version, _limit_error(cap))
            found.append(self._by_serial[create])
        return MissedMessages(self._backlog(found, position).groups, position)

    def holds_position(self, serial: str, since_ms: int) -> bool:
        """Return True if history up to *serial* can be separated from later messages.

        It cannot once a change after it was delivered before *since_ms*.
        """
        held = moment_of(self.floor), moment_of(self.head)
        if not is_serial(serial) or not held[0] <= moment_of(serial) <= held[1]:
            return False
        for version in reversed(self._recent.values()):
            if moment_of(version) <= moment_of(serial):
                break
            if milliseconds_of(version) < since_ms:
                return False
        return True

    def _with_error(self, error: RefusedError, cap: int, since_ms: int | None) -> MissedMessages:
        held = self.newest(None, since_ms, cap)
        return MissedMessages(held.groups, held.position, error)

    def _backlog(
        self, newest_first: list[Message], before: str, error: RefusedError | None = None
    ) -> MissedMessages:
        """Group by publish; a publish that the limit cut in two stays below the position, whole."""
        groups: list[tuple[str, list[Message]]] = []
        for message in reversed(newest_first):
            position = channel_serial_of(self._recent[message.serial])
            if groups and groups[-1][0] == position:
                groups[-1][1].append(message)
            else:
                groups.append((position, [message]))
        return MissedMessages(groups, channel_serial_of(before) if groups else self.head, error)

    def _window(self, query: Query) -> tuple[int, int]:
        low, high = self._start, len(self._rows)
        if query.start_ms is not None:
            low = bisect_left(self._times, query.start_ms, low)
        if query.end_ms is not None:
            high = bisect_right(self._times, query.end_ms, self._start)
        if query.visible_ms is not None:
            high = min(high, bisect_right(self._times, query.visible_ms, self._start))
        if query.from_serial is not None:
            bound = query.from_serial
            # ";" sorts directly after ":", so that a channelSerial takes its own messages in
            bound = bound if ":" in bound else f"{bound};"
            high = min(high, bisect_right(self._rows, bound, self._start))
        return low, high

    def _seen_at(self, serial: str, visible_ms: int | None) -> Message:
        """Return a message in its state at that time, as far as states were kept."""
        latest = self._by_serial[serial]
        if visible_ms is None:
            return latest
        known = [*self.versions(serial), *self._states.get(serial, ())]
        old = [one for one in known if one.fields["version"]["timestamp"] <= visible_ms]
        return max(old, key=lambda one: one.version_serial, default=latest)

    def _grow(self, serial: str, size: int) -> None:
        self._sizes[serial] = self._sizes.get(serial, 0) + size
        self.size_bytes += size

    def _forget(self, serial: str) -> None:
        del self._by_serial[serial]
        self.floor = max(self.floor, channel_serial_of(self._recent.pop(serial)))
        self.size_bytes -= self._sizes.pop(serial)
        self._latest_sizes.pop(serial)
        self._versions.pop(serial, None)
        self._states.pop(serial, None)


def _limit_error(cap: int) -> RefusedError:
    return RefusedError(90004, f"message limit exceeded: only the newest {cap} are sent", 404)
