"""The seam: one conversation, as its stored part and channel history add up to it.

Pure. A `Timeline` folds events into messages; `missed` says whether the store's window and the
channel's met, or what lies between them that nobody saw.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.event import TERMINAL
from rehydrate.core.fold import STEPS, MessageState, Outcome, fold
from rehydrate.core.positions import (
    HISTORY_LAG_MS,
    MARGIN_MS,
    insertion_position,
    is_name,
    serial_time_ms,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.core.event import ChannelMessage, Event, Status
    from rehydrate.core.text.versioned_messages import Place

MOST_CELLS = 20_000
"""Of how many channel messages that grow it is remembered whose they are."""

MOST_OPEN = 1_000
"""Beside how many that are in progress no other response begins: who invents ids makes no more rows.

What is in the store goes on, however much that is: our own publishers write a row before they say
anything. Which responses are refused depends on where a log is split: within the margin events are
folded again, and by then there may be room."""

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

    History had expired before it was read, or responses began that were over `MOST_OPEN`.
    """

    from_ms: int
    to_ms: int


def spanned(*holes: LostInterval | None) -> LostInterval | None:
    """One hole from the first to the last of *holes*; None if there are none."""
    known = [hole for hole in holes if hole is not None]
    if not known:
        return None
    return LostInterval(min(hole.from_ms for hole in known), max(hole.to_ms for hole in known))


class Tombstone(NamedTuple):
    """What is left of an erased conversation: nothing at or before it is read again."""

    serial: str | None
    timestamp_ms: int
    erased: frozenset[str] = frozenset()

    def names(self, message_id: str) -> bool:
        """Whether it says of a message by its id that it was erased."""
        return bool(self.erased) and erased_mark(message_id) in self.erased

    def covers(self, event: Event) -> bool:
        """Whether *event* belongs to what was erased."""
        if event.message_id is not None and self.names(event.message_id):
            return True
        if self.serial is not None and event.serial is not None:
            return event.serial <= self.serial
        return event.timestamp_ms <= self.timestamp_ms


class Reason(NamedTuple):
    """Why an answer is not complete; ``retry``: whether asking again can help."""

    code: str
    retry: bool
    detail: str


def erased_mark(message_id: str) -> str:
    """A contentless mark of an erased message's id."""
    return hashlib.blake2b(message_id.encode("utf-8", "replace"), digest_size=12).hexdigest()


_FORGOTTEN = MessageState("", "user")
_FORGOTTEN.status = "completed"
"""Whose an event is that belongs to no message that is known: it is dropped."""


class Timeline:
    """The messages of one conversation, taken further event by event.

    Args:
        states: the messages that are known so far.
        agents: the clientIds that may publish responses; empty: any.
        tombstone: what was erased, and stays so.
        elsewhere: how many messages beside *states* are in progress.

    Attributes:
        refused: when responses began that were over `MOST_OPEN`; None: none did.
        spare: how many more than `MOST_OPEN` may be in progress.
    """

    def __init__(
        self,
        states: Iterable[MessageState] = (),
        *,
        agents: frozenset[str] = frozenset(),
        tombstone: Tombstone | None = None,
        elsewhere: int = 0,
    ) -> None:
        self.refused: LostInterval | None = None
        self.spare = 0
        self._elsewhere = elsewhere
        self._open: set[str] = set()
        self.messages: dict[str, MessageState] = {}
        self.counts: Counter[str] = Counter()
        self._agents = agents
        self._tombstone = tombstone
        self._anonymous: list[MessageState] = []
        self._cells: dict[str, str] = {}
        for state in states:
            self.add(state)

    @property
    def has_anonymous(self) -> bool:
        """Whether an anonymous message is known."""
        return bool(self._anonymous)

    def add(self, state: MessageState) -> None:
        """Take in a message that was learned of later."""
        self.messages[state.id] = state
        self._count(state)
        self._cells.update(dict.fromkeys(state.cells, state.id))
        if state.anonymous:
            self._anonymous.append(state)
            self._anonymous.sort(key=lambda known: known.position or "")

    def lost(self) -> None:
        """Nobody saw a part of the channel: text without seq that was open may lack a piece."""
        for state in self.messages.values():
            unnumbered = state.tail is not None or bool(state.cells)
            if state.seq is None and unnumbered and not state.ended:
                state.inexact = state.changed = True

    def fold(self, events: Iterable[Event]) -> None:
        """Take the conversation further by *events*; what became of them is in ``counts``."""
        for event in events:
            self.counts[self.fold_one(event).value] += 1

    def fold_one(self, event: Event) -> Outcome:
        """Take the conversation one event further."""
        if event.replay_of is not None or (self._tombstone and self._tombstone.covers(event)):
            return Outcome.OLD
        if self._agents and event.kind != "prompt" and event.client_id not in self._agents:
            return Outcome.FOREIGN
        known = self.find(event)
        state = known or self._new(event)
        if state is None:
            return Outcome.OLD
        if known is None and not self._begins(state, event):
            return Outcome.REFUSED
        was = state.status
        outcome = fold(state, event)
        if outcome is Outcome.FOLDED:
            if state.status != was:
                self._hold_ended(state, was, event)
            if known is None or state.status != was:
                self._count(state)
            if state.position is None:
                state.position = insertion_position(event.timestamp_ms, len(self.messages))
            self.messages[state.id] = state
            if event.version is not None and event.serial is not None:
                self._cells[event.serial] = state.id
                if len(self._cells) > MOST_CELLS:
                    del self._cells[next(iter(self._cells))]
        return outcome

    @property
    def _is_full(self) -> bool:
        return len(self._open) + self._elsewhere >= MOST_OPEN + self.spare

    def _count(self, state: MessageState) -> None:
        if state.status in TERMINAL:
            self._open.discard(state.id)
        else:
            self._open.add(state.id)

    def _begins(self, state: MessageState, event: Event) -> bool:
        """Take in *state*, which *event* begins; False if there is no room for a response."""
        if state.role != "user" and self._is_full:
            self.refused = spanned(
                self.refused, LostInterval(event.timestamp_ms, event.timestamp_ms)
            )
            return False
        if state.anonymous:
            self._anonymous.append(state)
        return True

    def _hold_ended(self, state: MessageState, was: Status, event: Event) -> None:
        """What *event* opens again keeps its end for now, and its text, while there is no room."""
        if was in TERMINAL and state.status not in TERMINAL and self._is_full:
            state.status, state.provisional = was, True
            state.finished_ms = event.timestamp_ms

    def name(self, event: Event) -> str | None:
        """The id of the message that *event* belongs to; None: of an anonymous one.

        A channel message that grows belongs where it began: an append may drop what said so.
        """
        if event.version is not None and event.serial is not None:
            return self._cells.get(event.serial, event.message_id)
        return event.message_id

    def find(self, event: Event) -> MessageState | None:
        """The message that *event* belongs to; None if it is not known yet."""
        message_id = self.name(event)
        if message_id is None:
            return self._of_anonymous(event) if event.version is None else None
        return self.messages.get(message_id)

    def _new(self, event: Event) -> MessageState | None:
        if event.version is not None and event.message_id is None:
            return None
        own_id = event.id if is_name(event.id) else None
        message_id = event.message_id or own_id or event.serial
        if message_id is None or ("open", event.kind) not in STEPS or message_id in self.messages:
            return None
        role = "user" if event.kind == "prompt" else "assistant"
        state = MessageState(message_id, role, gen=event.gen)
        if event.message_id is None:
            state.anonymous = True
            state.position = event.serial
        return state

    def _of_anonymous(self, event: Event) -> MessageState | None:
        """The message of an event that names none; None: it begins one."""
        known = self._anonymous
        if not known:
            return None
        if event.id is not None:
            for state in known:
                if event.id in state.recent or event.id in {state.id, state.start_id}:
                    return state
        last = known[-1]
        if event.serial is not None and event.serial < (last.position or ""):
            earlier = [state for state in known if (state.position or "~") <= event.serial]
            return earlier[-1] if earlier else _FORGOTTEN
        if event.serial is not None and last.serial is not None and event.serial <= last.serial:
            return last
        begins = event.kind == "start" and (last.start_id is not None or bool(last.runs_to_keep()))
        return None if last.ended or begins else last

    @property
    def ordered(self) -> list[MessageState]:
        """The messages by position; those of the same place by id."""
        return sorted(self.messages.values(), key=lambda state: (state.position or "~", state.id))


def ignored(messages: Sequence[ChannelMessage], events: Sequence[Event]) -> Counter[str]:
    """How many of *messages* are none of the *events* that they mean, as an outcome."""
    return +Counter({Outcome.IGNORED.value: len(messages) - len(events)})


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

    def take(self, messages: Sequence[ChannelMessage]) -> None:
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
    growing: Place | None = None,
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
