"""Anonymous messages: which one an event without a response id belongs to.

Nothing in such an event names its message, so its place in the log decides (exactness S7, S16, S17; the
rule is docs/protocol.md section 9.4). The rule uses of the other messages only what lies near that
place. So a component that knows a part of a conversation finds the same message as one that knows
all of it, provided that it knows the anonymous messages from that place on, and the newest one at
or before it: `reach_back` returns the place, and a `Lookup` asks a store for them.

* **The same event again** is recognised by its id. The message that contains it is known by its
  own id, or those it keeps for the margin. An id identifies an event only near
  its place, and within the margin of its message's end: a publisher that uses ids again means other
  events.
* **With a serial**, the event belongs to the newest message that began at or before it. A message
  that began later cannot contain it, and one that began earlier had ended or was abandoned.
* **Without one**, it belongs to the newest message. An event that is older than the ids kept of
  that message was folded before.
* **After an end, and at a start of its own**, an event begins a message; so does numbered content
  after content without seqs, and the reverse. It is never appended to whatever happens to be the
  last message in memory.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING

from rehydrate.core.event import CONTENT, TERMINAL
from rehydrate.core.message import MessageState
from rehydrate.core.positions import (
    MARGIN_MS,
    insertion_position,
    is_name,
    serial_time_ms,
)

if TYPE_CHECKING:
    from rehydrate.core.event import Event

_REACH_MS = 2 * MARGIN_MS

FORGOTTEN = MessageState("", "user")
FORGOTTEN.status = "completed"
"""Sentinel: the event's message is not known any more. It has ended, so the fold drops the event."""


def names_of(event: Event) -> list[str]:
    """Return the ids that the message may get which *event*, an anonymous one, begins.

    The first one that no message has: that of the event; else its serial, or its time.
    """
    own = [event.id] if event.id is not None and is_name(event.id) else []
    if event.serial is not None:
        return [*own, event.serial]
    return [*own, insertion_position(event.timestamp_ms, 0)] if own else []


def reach_back(event: Event) -> str:
    """Return the position from which on messages may contain *event*, an anonymous one."""
    serial = event.serial
    at_ms = event.timestamp_ms if serial is None else serial_time_ms(serial)
    if at_ms is None:
        return serial or ""
    return insertion_position(max(0, at_ms - _REACH_MS), 0)


class AnonymousMessages:
    """The anonymous messages of a conversation that are known, in the order of their positions.

    Attributes:
        complete_from: every message that began at or after this position is known; the empty
            position: all are. None: only those that were added.
    """

    def __init__(self) -> None:
        self._states: list[MessageState] = []
        self.complete_from: str | None = ""

    def __bool__(self) -> bool:
        return bool(self._states)

    def add(self, state: MessageState) -> None:
        """Add a message, or replace the one with its id."""
        self._states = [known for known in self._states if known.id != state.id]
        insort(self._states, state, key=_position)

    def reaches(self, position: str) -> bool:
        """Return True if the newest message at or before *position*, and all later ones, are known."""
        complete_from = self.complete_from
        if complete_from is None or complete_from == "":
            return complete_from is not None
        at = bisect_right(self._states, position, key=_position)
        return at > 0 and _position(self._states[at - 1]) >= complete_from

    def looked_up(self, position: str) -> None:
        """Note that those were added which a store has for a lookup from *position*."""
        at = bisect_right(self._states, position, key=_position)
        from_ = _position(self._states[at - 1]) if at else ""
        if self.complete_from is None or from_ < self.complete_from:
            self.complete_from = from_

    def find(self, event: Event) -> MessageState | None:
        """Return the message of *event*, or `FORGOTTEN`; None: it begins one."""
        if not self._states:
            return None
        near = bisect_right(self._states, reach_back(event), key=_position)
        for state in self._states[max(0, near - 1) :]:
            if _contains(state, event):
                return state
        if event.serial is None:
            last = self._states[-1]
            if event.timestamp_ms < _last_known_ms(last) - MARGIN_MS:
                return FORGOTTEN
            if not _is_over(last, event):
                return last
            return FORGOTTEN if last.has_forgotten(event.timestamp_ms) else None
        at = bisect_right(self._states, event.serial, key=_position)
        if event.kind == "start" and _lacks_start(self._states[at : at + 1]):
            return FORGOTTEN  # it is that message's, which cannot be put in order any more
        if not at:
            begins = event.kind == "start" and self.complete_from == ""
            return None if begins else FORGOTTEN
        state = self._states[at - 1]
        if state.serial is not None and event.serial <= state.serial:
            return state
        return None if _is_over(state, event) else state

    def place(self, at_ms: int, index: int) -> str:
        """Return a position, after all others, for a message without a serial."""
        position = insertion_position(at_ms, index)
        newest = _position(self._states[-1]) if self._states else ""
        return position if position > newest else f"{newest}+"


def _position(state: MessageState) -> str:
    return state.position or ""


def _contains(state: MessageState, event: Event) -> bool:
    """Return True if the id of *event* is one that *state* still identifies events by."""
    if event.id is None or not (event.id in state.recent or event.id == state.id):
        return False
    if state.status not in TERMINAL or state.finished_ms is None:
        return True
    return event.timestamp_ms <= state.finished_ms + MARGIN_MS


def _last_known_ms(state: MessageState) -> int:
    """Return a time, in ms since 1970, at or before that of the last event of *state*."""
    if state.ended and state.finished_ms is not None:
        return state.finished_ms
    return serial_time_ms(_position(state)) or 0


def _lacks_start(following: list[MessageState]) -> bool:
    return any(state.start_id is None for state in following)


def _is_over(state: MessageState, event: Event) -> bool:
    """Return True if *event* does not continue *state*.

    That has ended, or another one starts; or one of them is numbered and the other is not.
    """
    if state.ended or event.kind == "start":
        return True
    differ = event.kind in CONTENT and (event.seq is None) != (state.seq is None)
    return differ and bool(state.parts())
