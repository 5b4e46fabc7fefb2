"""The seam: where the stored part of a conversation ends and channel history begins.

The channel is a log of which each component sees a window (docs/exactness.md, "Three windows on one
log"). The store has what was recorded; channel history has what is retained. An answer is whole
only if the two windows meet, and nothing in either says so by itself. This module decides it from
three times:

* `Watermark.timestamp_ms`: the newest message that is folded into the store;
* `Watermark.read_at_ms`: when a read last reached the end of history;
* the retention: how long Ably keeps history, in ms.

**Reads overlap.** A read begins a margin of 5 s *before* the watermark (`read_from_ms`). A
watermark does not promise that everything below it is folded: regions differ in order by some
seconds, and REST history lags by up to 2 s, so a message below the watermark may become visible
after the read (exactness S1). The fold drops what it has, so the overlap costs time and never
doubles text.

**The store alone** may answer only if it was read a margin later than the client's attach point
(`needs_no_read`), for the same reason. Comparing `until` with the watermark itself would lose a
message that history showed late.

**Windows meet** if history showed a message at or before the watermark, or if the last complete
read is so recent that everything since is still retained (`missed`). The age of the watermark says
nothing: in an idle conversation it is always old (section 13). The lag is subtracted there, because
a message published up to 2 s before that read may have become visible only after it, and may have
expired since. Where the windows do not meet, the interval between them is recorded in the same
transaction as the watermark that passes it; otherwise the next read would forget it.

**The watermark never goes back**, and it does not pass a channel message that may still grow
(`advanced`): such a message lies in history where it was created, so a read that began later would
miss its last version (S2).

**A tombstone** bounds what is read of a conversation that was erased: nothing at or before it.
Recorders, followers and readers drop the same events by it, and those of clients that may not
publish responses: the answer carries the rule as `Exclusions` (docs/protocol.md section 9.1).

An erased event proves that its whole message is erased. The time of the erasure alone is not enough:
it would let through the rest of a response that was streaming at that time. A recorder would store
that rest as a message, and a reader, which lacks the beginning, would hydrate again and again. So
the id of each message with an erased event is kept. A reader that joins later receives only the
rest; a component that reads history recognised the message by the tombstone, and the answer names it.

Events of an anonymous stream do not name their message, so the place decides which of them are the
rest of an erased one: all from the erasure on, up to its `stop` or the next `start`. They are folded
again within the margin, and by every reader, after the end was seen, so the last place is kept too.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import Outcome
from rehydrate.core.positions import HISTORY_LAG_MS, MARGIN_MS, insertion_position, serial_time_ms

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.core.message import MessageState
    from rehydrate.core.text.versioned_messages import VersionedHeader

REWIND_REACH_MS = 110_000
"""The age up to which a reader can rewind to a serial, in ms: Ably's 2 minutes, less a little."""


class Watermark(NamedTuple):
    """Up to where channel history is folded into the store.

    Attributes:
        serial: of the newest message folded; None if it had none.
        timestamp_ms: of that message, in ms since 1970.
        read_at_ms: when a read last reached the end of history.
    """

    serial: str | None
    timestamp_ms: int
    read_at_ms: int


class LostInterval(NamedTuple):
    """A time, in ms since 1970, of which messages may be lost.

    History had expired before it was read, or responses began beyond `timeline.MAX_OPEN`.
    """

    from_ms: int
    to_ms: int


def spanned(*intervals: LostInterval | None) -> LostInterval | None:
    """Return the interval from the first to the last of *intervals*; None if there are none."""
    known = [interval for interval in intervals if interval is not None]
    if not known:
        return None
    return LostInterval(
        min(interval.from_ms for interval in known), max(interval.to_ms for interval in known)
    )


def outside(
    intervals: Sequence[LostInterval], covered: LostInterval | None
) -> tuple[LostInterval, ...]:
    """Return *intervals* without those that lie within *covered*, since nothing in them is lost."""
    if covered is None:
        return tuple(intervals)
    return tuple(
        each
        for each in intervals
        if not covered.from_ms <= each.from_ms <= each.to_ms <= covered.to_ms
    )


class ErasedStream(NamedTuple):
    """The anonymous stream that an erasure cut. Its later events do not name their message.

    Attributes:
        through: the place of the last event of it that was seen: a serial, or a time in its form.
        is_open: more events may follow, since neither its end nor another start was seen.
    """

    through: str
    is_open: bool


class Tombstone(NamedTuple):
    """The remainder of an erased conversation: nothing at or before it is read again."""

    serial: str | None
    timestamp_ms: int
    erased: frozenset[str] = frozenset()
    stream: ErasedStream | None = None

    def erases(self, message_id: str) -> bool:
        """Return True if the message *message_id* was erased."""
        return bool(self.erased) and erased_mark(message_id) in self.erased

    def covers(self, event: Event) -> bool:
        """Return True if *event* belongs to what was erased, or to an answer to it or a replay of it."""
        named = (event.message_id, event.replay_of)
        if any(name is not None and self.erases(name) for name in named):
            return True
        if self.erases_prompt_of(event):
            return True
        if self.serial is not None and event.serial is not None:
            return event.serial <= self.serial
        return event.timestamp_ms <= self.timestamp_ms

    def erases_prompt_of(self, event: Event) -> bool:
        """Return True if *event* begins the answer to an erased prompt."""
        return event.prompt_id is not None and self.erases(event.prompt_id)


def erased_mark(message_id: str) -> str:
    """Return a hash of an erased message's id, which reveals nothing of it."""
    return hashlib.blake2b(message_id.encode("utf-8", "replace"), digest_size=12).hexdigest()


class Window:
    """What a read of channel history has shown so far, page by page, oldest first.

    Args:
        read_at_ms: when the read began. It shows at least what was published by then, less the lag.
    """

    def __init__(self, read_at_ms: int) -> None:
        self.read_at_ms = read_at_ms
        self.oldest_ms: int | None = None
        self.newest_ms: int | None = None
        self.newest_serial: str | None = None
        self.rewind_from: str | None = None
        """A serial for a reader to rewind to. It is older than the margin, so that everything
        before it is visible, and not the newest, so that the rewound part begins with a message
        that the answer contains: that message proves that nothing is missing. None if it is too
        old for Ably to rewind to."""
        self._settled: list[str] = []
        self.count = 0

    def add_page(self, messages: Sequence[ChannelMessage]) -> None:
        """Add the next page of history."""
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
    """Return from when history has to be read, in ms since 1970; None: from its beginning."""
    return None if watermark is None else max(0, watermark.timestamp_ms - MARGIN_MS)


def since_recorded(events: Sequence[Event], watermark: Watermark | None) -> Sequence[Event]:
    """Return *events* without those that are recorded and that their id identifies.

    The store keeps such ids for the margin. A read may begin earlier, and of its events from before
    the margin those that have neither seq nor serial would count as new. Those that name no message
    could be folded differently: an id that was used for two of them is known only the first time.
    """
    since_ms = read_from_ms(watermark)
    if since_ms is None or not any(_may_repeat(event, since_ms) for event in events):
        return events
    return [event for event in events if not _may_repeat(event, since_ms)]


def _may_repeat(event: Event, since_ms: int) -> bool:
    anonymous = event.message_id is None and event.version is None
    unplaced = anonymous or (event.serial is None and event.seq is None)
    return unplaced and event.kind != "prompt" and event.timestamp_ms < since_ms


def needs_no_read(watermark: Watermark | None, until: str | None) -> bool:
    """Return True if the store alone reaches *until*: it was read a margin later."""
    if watermark is None or until is None:
        return False
    until_ms = serial_time_ms(until)
    return until_ms is not None and until_ms + MARGIN_MS <= watermark.read_at_ms


def may_need_read(until: str | None, now_ms: int) -> bool:
    """Return False if *until* is so old that a store may have been read a margin later."""
    until_ms = None if until is None else serial_time_ms(until)
    return until_ms is None or until_ms + MARGIN_MS > now_ms


def missed(
    watermark: Watermark | None, created_ms: int | None, window: Window, retention_ms: int
) -> LostInterval | None:
    """Return the interval between the store's window and *window* that was never read.

    Args:
        watermark: up to where the store has history; None: it has none.
        created_ms: when the row of the conversation was created; None: there is no row.
        window: what history showed.
        retention_ms: how long the channel keeps history.

    Returns:
        None if the windows meet. Without a watermark a conversation was last whole when it was
        created. Without a row it counts as whole, unless its history begins at the very edge of
        retention: then an earlier part has probably expired.
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
    """Return the watermark after the messages of *window* were folded; it never goes back.

    Args:
        watermark: the one before.
        window: what history showed.
        at_end: the read reached the end of history, so ``read_at_ms`` moves too.
        growing: the oldest channel message that may still grow: the next read begins there, if
            history is kept for as long.
        retention_ms: how long the channel keeps history.
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


def read_again_from(states: Iterable[MessageState], read_at_ms: int) -> VersionedHeader | None:
    """Return the oldest versioned message in *states* that may still grow; None if there is none.

    Those of a response that is open, or that ended within the margin before *read_at_ms*: a version
    that was published before the end may become visible after it.
    """
    growing = [
        message.header
        for state in states
        if state.status not in TERMINAL or (state.finished_ms or 0) > read_at_ms - MARGIN_MS
        for message in state.versioned.values()
        if not message.header.is_last
    ]
    return min(growing, default=None)


MAX_ERASED_IDS = 1_000
"""How many erased messages an answer names."""


class Exclusions(NamedTuple):
    """Which events a reader of an answer has to drop.

    Attributes:
        agents: the clientIds that may publish responses; empty: any.
        erased_to_ms: everything published at or before this time, in ms since 1970, is erased; None:
            nothing was erased.
        erased_ids: erased messages of which events came after that time.
        erased_stream: the anonymous stream that was erased; None: there was none.
    """

    agents: tuple[str, ...] = ()
    erased_to_ms: int | None = None
    erased_ids: tuple[str, ...] = ()
    erased_stream: ErasedStream | None = None

    @property
    def rule(self) -> ExclusionRule:
        """The rule that drops these events."""
        tombstone = None
        if self.erased_to_ms is not None:
            marks = frozenset(map(erased_mark, self.erased_ids))
            tombstone = Tombstone(None, self.erased_to_ms, marks, self.erased_stream)
        return ExclusionRule(frozenset(self.agents), tombstone)


class ExclusionRule:
    """Decides which events are dropped, and collects the ids of the erased messages that it finds.

    Args:
        agents: the clientIds that may publish responses; empty: any.
        tombstone: what was erased.

    Attributes:
        erased: messages with erased events, and answers to erased prompts.
        stream: the erased anonymous stream, as far as it was seen.
    """

    def __init__(
        self, agents: frozenset[str] = frozenset(), tombstone: Tombstone | None = None
    ) -> None:
        self.erased: set[str] = set()
        self.stream = None if tombstone is None else tombstone.stream
        self._agents = agents
        self._tombstone = tombstone
        self._erased_later: dict[str, None] = {}

    def outcome_of(self, event: Event, known: Container[str] = ()) -> Outcome | None:
        """Return why *event* is dropped; None if it is not.

        Args:
            event: an event, also of a replay.
            known: the ids of the messages that exist since the erasure.
        """
        if self._tombstone is not None and self._is_erased(event, self._tombstone, known):
            return Outcome.OLD
        if self._agents and event.kind != "prompt" and event.client_id not in self._agents:
            return Outcome.FOREIGN
        return None

    def _is_erased(self, event: Event, tombstone: Tombstone, known: Container[str]) -> bool:
        id_ = event.message_id
        named = any(name in self.erased for name in (id_, event.prompt_id, event.replay_of))
        covered = named or tombstone.covers(event)
        if id_ is None and event.version is None:
            return self._is_of_stream(event, covered=covered)
        if not covered:
            return False
        if id_ is not None and id_ not in known:
            self.erased.add(id_)
            later = event.timestamp_ms > tombstone.timestamp_ms
            if later and len(self._erased_later) < MAX_ERASED_IDS:
                self._erased_later[id_] = None
        return True

    def _is_of_stream(self, event: Event, *, covered: bool) -> bool:
        """Return True if *event*, an anonymous one, was erased: by its time, or with its stream."""
        stream, at = self.stream, place_of(event)
        if event.kind == "cancel" or event.replay_of is not None:
            return covered
        starts = event.kind == "start" and not covered
        is_open = stream is not None and stream.is_open
        if stream is not None and at <= stream.through and not (is_open and event.kind == "stop"):
            return covered or not starts
        if starts and stream is not None:
            self.stream = stream._replace(is_open=False)
        elif covered or is_open:
            through = at if stream is None else max(at, stream.through)
            self.stream = ErasedStream(through, event.kind != "stop")
            return True
        return False

    @property
    def exclusions(self) -> Exclusions:
        """Which events the readers of an answer have to drop."""
        erased_to_ms = None if self._tombstone is None else self._tombstone.timestamp_ms
        ids = tuple(self._erased_later)
        return Exclusions(tuple(sorted(self._agents)), erased_to_ms, ids, self.stream)


def place_of(event: Event) -> str:
    """Return the place of *event* on the channel: its serial, or its time in the form of one."""
    return insertion_position(event.timestamp_ms, 0) if event.serial is None else event.serial
