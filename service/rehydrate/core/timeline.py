"""The seam: one conversation, as its stored part and channel history add up to it.

Pure. A `Timeline` folds events into messages; `missed` says whether the store's window and the
channel's met, or what lies between them that nobody saw.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.ids import HISTORY_LAG_MS, MARGIN_MS, insertion_position, serial_time_ms
from rehydrate.core.response import STEPS, MessageState, Outcome, fold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rehydrate.core.events import ChannelMessage, Event

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


class Hole(NamedTuple):
    """A time that nobody saw, in ms: history had expired before it was read."""

    from_ms: int
    to_ms: int


class Tombstone(NamedTuple):
    """What is left of an erased conversation: nothing at or before it is read again."""

    serial: str | None
    timestamp_ms: int
    erased: frozenset[str] = frozenset()

    def covers(self, event: Event) -> bool:
        """Whether *event* belongs to what was erased."""
        if event.message_id is not None and erased_mark(event.message_id) in self.erased:
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


class Timeline:
    """The messages of one conversation, taken further event by event.

    Args:
        states: the messages that are known so far.
        agents: the clientIds that may publish responses; empty: any.
        tombstone: what was erased, and stays so.
    """

    def __init__(
        self,
        states: Iterable[MessageState] = (),
        *,
        agents: frozenset[str] = frozenset(),
        tombstone: Tombstone | None = None,
    ) -> None:
        self.messages: dict[str, MessageState] = {state.id: state for state in states}
        self.counts: Counter[str] = Counter()
        self._agents = agents
        self._tombstone = tombstone
        anonymous = [state for state in self.messages.values() if state.anonymous]
        self._anonymous = max(anonymous, key=lambda state: state.position or "~", default=None)

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
        state = self.find(event) or self._new(event)
        if state is None:
            return Outcome.OLD
        outcome = fold(state, event)
        if outcome is Outcome.FOLDED:
            if state.position is None:
                state.position = insertion_position(event.timestamp_ms, len(self.messages))
            self.messages[state.id] = state
        return outcome

    def find(self, event: Event) -> MessageState | None:
        """The message that *event* belongs to; None if it is not known yet."""
        if event.message_id is None:
            return self._of_anonymous(event)
        return self.messages.get(event.message_id)

    def _new(self, event: Event) -> MessageState | None:
        message_id = event.message_id or event.id or event.serial
        if message_id is None or ("open", event.kind) not in STEPS or message_id in self.messages:
            return None
        role = "user" if event.kind == "prompt" else "assistant"
        state = MessageState(message_id, role, gen=event.gen)
        if event.message_id is None:
            state.anonymous = True
            self._anonymous = state
        return state

    def _of_anonymous(self, event: Event) -> MessageState | None:
        """The message of an event that names none; None: it begins one."""
        last = self._anonymous
        if last is None:
            return None
        again = event.id is not None and event.id in {last.id, last.start_id}
        seen = event.serial is not None and last.serial is not None and event.serial <= last.serial
        if again or seen or event.id in last.recent:
            return last
        begins = event.kind == "start" and (last.start_id is not None or bool(last.runs_to_keep()))
        return None if last.ended or begins else last

    @property
    def ordered(self) -> list[MessageState]:
        """The messages by position; those of the same place by id."""
        return sorted(self.messages.values(), key=lambda state: (state.position or "~", state.id))


class Window(NamedTuple):
    """One read of channel history, oldest message first.

    ``read_at_ms``: when the read began; the window holds what was on the channel by then, less the
    lag. ``whole``: the walk ended because there is no more, not because it had met the watermark.
    """

    messages: list[ChannelMessage]
    read_at_ms: int
    whole: bool

    @property
    def newest_serial(self) -> str | None:
        """The greatest serial in it."""
        return max((m.serial for m in self.messages if m.serial is not None), default=None)


def read_from_ms(watermark: Watermark | None) -> int | None:
    """From when history has to be read, in ms; None: from its beginning."""
    return None if watermark is None else max(0, watermark.timestamp_ms - MARGIN_MS)


def needs_no_read(watermark: Watermark | None, until: str | None) -> bool:
    """Whether the store alone reaches *until*: it was read later than that, by the margin."""
    if watermark is None or until is None:
        return False
    until_ms = serial_time_ms(until)
    return until_ms is not None and until_ms + MARGIN_MS <= watermark.read_at_ms


def missed(
    watermark: Watermark | None, created_ms: int | None, window: Window, retention_ms: int
) -> Hole | None:
    """What lies between the store's window and *window* that nobody saw; None if they meet.

    They meet if history showed a message at or before the watermark, or if the last read that
    reached the end of history is young enough for all since then to be retained still. A
    conversation without a watermark was last known whole when it was created (*created_ms*); one
    without a row is taken as whole, unless its history begins at the very edge of retention.
    """
    oldest_ms = min((m.timestamp_ms for m in window.messages), default=window.read_at_ms)
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
    return Hole(max(0, known_ms - HISTORY_LAG_MS), max(oldest_ms, known_ms))


def advanced(watermark: Watermark | None, window: Window) -> Watermark:
    """The watermark after *window* was folded; it never goes back."""
    newest_ms = max((m.timestamp_ms for m in window.messages), default=0)
    newest = window.newest_serial
    if watermark is None:
        return Watermark(newest, newest_ms or window.read_at_ms, window.read_at_ms)
    serial = max(filter(None, (watermark.serial, newest)), default=None)
    return Watermark(
        serial,
        max(watermark.timestamp_ms, newest_ms),
        max(watermark.read_at_ms, window.read_at_ms),
    )


def rewind_from(messages: Iterable[ChannelMessage], read_at_ms: int) -> str | None:
    """A serial a little before the end of what was read, for a reader to rewind to.

    The newest serial that is older than the margin: whatever was to come before it has come. None
    if there is none young enough for Ably to hold.
    """
    return max(
        (
            m.serial
            for m in messages
            if m.serial is not None
            and read_at_ms - REWIND_REACH_MS <= m.timestamp_ms <= read_at_ms - MARGIN_MS
        ),
        default=None,
    )
