"""The messages of one conversation, changed event by event.

A `Timeline` finds the message that an event belongs to, decides whether the event may begin a new
one, and folds it. Recorders and followers both use it, each with the events of its own window.

Most events name their message. An *anonymous* one does not, so its place in the log decides
(exactness S7, S16, S17; the rule is docs/protocol.md section 9.4). `AnonymousMessages` uses only what
lies near that place. So a component that knows a part of a conversation finds the same message as
one that knows all of it, if it knows the anonymous messages from that place on, and the
newest one at or before it: `reach_back` returns the place, and a `Lookup` asks a store for them.

* **The same event again** is recognised by its id. The message that contains it is known by its own
  id, or those it keeps for the margin. An id identifies an event only near its place, and within
  the margin of its message's end: a publisher that uses ids again means other events.
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
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.event import CONTENT, TERMINAL
from rehydrate.core.fold import STEPS, MessageState, Outcome, fold
from rehydrate.core.positions import (
    MARGIN_MS,
    insertion_position,
    is_name,
    serial_time_ms,
)
from rehydrate.core.window import ExclusionRule, LostInterval, spanned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.core.event import ChannelMessage, Event, Status
    from rehydrate.core.window import Tombstone

MAX_TRACKED_SERIALS = 20_000
"""For how many versioned messages it is tracked which message they belong to."""

MAX_OPEN = 1_000
"""How many responses may be in progress before no other may begin.

A client could otherwise create rows without limit by inventing ids. Stored responses continue,
however many they are: our own publishers write a row before their first event. Which responses are
refused depends on where a log is split: within the margin events are folded again, and there may be
room by then.
"""


class Reason(NamedTuple):
    """Why an answer is not complete; ``retry``: hydrating again can help."""

    code: str
    retry: bool
    detail: str


class Applied(NamedTuple):
    """What `Timeline.apply` did with an event.

    ``state``: the message that the event belongs to, after the fold; None if it belongs to none: it
    was rejected, or would have begun a message and did not. ``was_new``: the event began *state*.
    """

    state: MessageState | None
    outcome: Outcome
    was_new: bool = False


_WITHOUT_STATE = {outcome: Applied(None, outcome) for outcome in Outcome}


class Lookup(NamedTuple):
    """What a store is asked for, so that events find the messages that they belong to.

    Attributes:
        ids: the messages with these ids, also to see which of the ids are taken.
        serials: the messages that begin at these serials: an append may name no more than that.
        anonymous_from: of the anonymous messages the newest one at or before this position, and all
            later ones; None: none.
    """

    ids: frozenset[str] = frozenset()
    serials: frozenset[str] = frozenset()
    anonymous_from: str | None = None

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to ask for."""
        return not self.ids and not self.serials and self.anonymous_from is None


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


class _Uncertain:
    """Which anonymous events of a batch may begin a message, before the earlier ones are folded.

    An earlier event may end the message that an event would continue, forget its id, or number it.
    """

    def __init__(self, *, after_end: bool) -> None:
        self._after_end = after_end
        self._numbered = {False: False, True: False}

    def may_begin(self, state: MessageState | None, event: Event) -> bool:
        """Return True if the next *event* may begin a message, although it belongs to *state* now."""
        numbered = event.seq is not None
        self._numbered[numbered] = True
        may_begin = (
            self._after_end
            or state is None
            or (event.kind == "start" and event.id != state.id)
            or self._numbered[not numbered]
            or (event.kind in CONTENT and (state.seq is None) == numbered)
        )
        self._after_end |= event.kind == "stop" and (state is None or not state.ended)
        return may_begin


class Timeline:
    """The messages of one conversation, changed event by event.

    Args:
        states: the messages that are known so far.
        agents: the clientIds that may publish responses; empty: any.
        tombstone: what was erased.
        elsewhere: how many messages that are not in *states* are in progress.

    Attributes:
        messages: the messages by id.
        anonymous: those whose events name no message.
        counts: how many events had which outcome.
        excluded: which events are dropped regardless of what the messages contain.
        refused: when responses began that were over `MAX_OPEN`; None: none did.
        spare: how many more than `MAX_OPEN` may be in progress.
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
        self.excluded = ExclusionRule(agents, tombstone)
        self.anonymous = AnonymousMessages()
        self._message_of_serial: dict[str, str] = {}
        for state in states:
            self.add(state)

    def add(self, state: MessageState) -> None:
        """Add a message that was loaded later."""
        self.messages[state.id] = state
        self._count(state)
        self._message_of_serial.update(dict.fromkeys(state.versioned, state.id))
        if state.anonymous:
            self.anonymous.add(state)

    def lookup(self, events: Iterable[Event], *, include_known: bool = False) -> Lookup:
        """Return what a store has to be asked for before *events* are folded here.

        Every message that they may belong to, and every id that a message they begin may get. A
        message that is not loaded here may still exist. Recorders, hydrates, followers and `verify`
        all call this, and pass the result of the query to `learn`.

        Args:
            events: events in their order.
            include_known: also query messages that are loaded here, since they may have changed.
        """
        ids, serials, from_ = set[str](), set[str](), None
        uncertain = _Uncertain(after_end=include_known)
        for event in events:
            if event.version is not None or event.message_id is not None:
                names = (
                    {self.name(event), event.message_id} if include_known else {self.name(event)}
                )
                ids.update(name for name in names if name is not None)
                if event.version is not None and event.message_id in {None, event.serial}:
                    serials |= {event.serial} if event.serial is not None else set()
                continue
            reached = self.anonymous.reaches(reach_back(event))
            if include_known or not reached:
                from_ = min(from_ or reach_back(event), reach_back(event))
            if uncertain.may_begin(self.find(event), event) or not reached:
                ids.update(names_of(event))
        if not include_known:
            ids -= self.messages.keys()
            serials -= self._message_of_serial.keys()
        return Lookup(frozenset(ids), frozenset(serials), from_)

    def learn(self, asked: Lookup, states: Iterable[MessageState]) -> None:
        """Add *states*, which are all that a store has of *asked*; what is known stays as it is."""
        for state in states:
            if state.id not in self.messages:
                self.add(state)
        if asked.anonymous_from is not None:
            self.anonymous.looked_up(asked.anonymous_from)

    def mark_inexact(self) -> None:
        """Record that events were missed: open text without seq may lack some.

        Text with seqs shows it by its gaps.
        """
        for state in self.messages.values():
            unnumbered = state.tail is not None or bool(state.versioned)
            if state.seq is None and unnumbered and not state.ended:
                state.mark_inexact()

    def fold(self, events: Iterable[Event]) -> None:
        """Apply *events* in order; count their outcomes in ``counts``."""
        for event in events:
            outcome = self.apply(event).outcome
            self.counts[outcome.value] += 1
            if event.unreadable and outcome is Outcome.FOLDED:
                self.counts[Outcome.UNREADABLE.value] += 1

    def apply(self, event: Event) -> Applied:
        """Fold *event* into the message that it belongs to, which it may begin.

        This is the one lookup per event for recorders and followers. A caller that needs the
        message before the event is folded, for the drop rule, calls `rejection`, `find` and
        `apply_to` instead: the same three steps.
        """
        rejected = self.rejection(event)
        if rejected is not None:
            return _WITHOUT_STATE[rejected]
        return self.apply_to(self.find(event), event)

    def rejection(self, event: Event) -> Outcome | None:
        """Return why *event* may not touch any message here; None if it may.

        Events of replays, erased events, and responses of clients that are not agents are rejected
        whatever the messages contain.
        """
        if event.replay_of is not None:
            return Outcome.OLD
        return self.excluded.outcome_of(event, self.messages)

    def apply_to(self, known: MessageState | None, event: Event) -> Applied:
        """Fold *event* into *known*, which `find` returned for it; None: it may begin a message."""
        state = known or self._new(event)
        if state is None:
            return _WITHOUT_STATE[Outcome.OLD]
        if known is None and not self._begins(state, event):
            return _WITHOUT_STATE[Outcome.REFUSED]
        was = state.status
        outcome = fold(state, event)
        if outcome is not Outcome.FOLDED:
            self.note_dropped(known, event)
            return Applied(known, outcome)
        was_new = state.id not in self.messages
        if state.status != was:
            self._hold_ended(state, was, event)
        if was_new or state.status != was:
            self._count(state)
        if state.position is None:
            place = self.anonymous.place if state.anonymous else insertion_position
            state.place(place(event.timestamp_ms, len(self.messages)))
        self.messages[state.id] = state
        if was_new and state.anonymous:
            self.anonymous.add(state)
        if event.version is not None and event.serial is not None:
            self._message_of_serial[event.serial] = state.id
            if len(self._message_of_serial) > MAX_TRACKED_SERIALS:
                del self._message_of_serial[next(iter(self._message_of_serial))]
        return Applied(state, outcome, was_new)

    def note_dropped(self, known: MessageState | None, event: Event) -> None:
        """Record that *event*, which belongs to *known*, changed nothing.

        Without a serial, or with a seq of its own, only its id shows, when it is read again, that it
        is not new.
        """
        placed = event.serial is not None and event.seq is None
        if known is None or placed or event.id is None:
            return
        if known.anonymous or event.id in known.recent:
            known.keep_id(event.id, event.timestamp_ms)

    @property
    def _is_full(self) -> bool:
        return len(self._open) + self._elsewhere >= MAX_OPEN + self.spare

    def _count(self, state: MessageState) -> None:
        if state.status in TERMINAL:
            self._open.discard(state.id)
        else:
            self._open.add(state.id)

    def _begins(self, state: MessageState, event: Event) -> bool:
        """Return False if there is no room for *state*, which *event* begins."""
        if state.role != "user" and self._is_full:
            self.refused = spanned(
                self.refused, LostInterval(event.timestamp_ms, event.timestamp_ms)
            )
            return False
        return True

    def _hold_ended(self, state: MessageState, was: Status, event: Event) -> None:
        """Keep the end of a message that *event* reopens, as long as there is no room for it."""
        if was in TERMINAL and state.status not in TERMINAL and self._is_full:
            state.hold_ended(was, event.timestamp_ms)

    def name(self, event: Event) -> str | None:
        """Return the id of the message that *event* belongs to; None: an anonymous one.

        A versioned message belongs where it began: an append may drop the headers that name the
            response.
        """
        if event.version is not None and event.serial is not None:
            return self._message_of_serial.get(event.serial, event.message_id)
        return event.message_id

    def find(self, event: Event) -> MessageState | None:
        """Return the message that *event* belongs to; None if it is not known."""
        if event.version is None:
            if event.message_id is None:
                return self.anonymous.find(event)
            return self.messages.get(event.message_id)
        return self.messages.get(self.name(event) or "")

    def _new(self, event: Event) -> MessageState | None:
        if event.version is not None and (event.message_id is None or event.version.only_adds):
            return None
        names = [event.message_id] if event.message_id is not None else names_of(event)
        message_id = next((name for name in names if name not in self.messages), None)
        if message_id is None or ("open", event.kind) not in STEPS:
            return None
        role = "user" if event.kind == "prompt" else "assistant"
        state = MessageState(message_id, role, gen=event.gen)
        if event.message_id is None:
            state.anonymous = True
            state.position = event.serial
        return state

    @property
    def ordered(self) -> list[MessageState]:
        """The messages by position; those at one position by id."""
        return sorted(self.messages.values(), key=lambda state: (state.position or "~", state.id))


def ignored(messages: Sequence[ChannelMessage], events: Sequence[Event]) -> Counter[str]:
    """Count those of *messages* that no codec made one of *events* of, as an outcome."""
    return +Counter({Outcome.IGNORED.value: len(messages) - len(events)})
