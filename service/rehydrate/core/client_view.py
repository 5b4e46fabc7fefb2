"""A reader: an answer, then live messages by the drop rule.

The drop rule decides what a live event means to a reader that has an answer: drop it, apply it, or
hydrate again. It is specified as a table in docs/protocol.md section 9.5. `verdict` is that table:
comments give the rows, and the first row that fits decides. `View` does what surrounds it: replays
(section 9.2), chains of appends (9.3), finding the message (9.4), applying (9.6). The package
for JavaScript, ``clients/js``, follows the same rule; `tests/laws/test_client_js.py` compares them.

The order of the rows matters. Identity comes first (owner, gen, id): an event of another publisher,
or one that was seen, must not cause anything, not even a new hydrate. Versions come before the end
of the message, since an end may overtake the last append. Gaps come before the end of the message
as well: a reader that lacks text asks for it, even when the message has ended. What is left is
added only to a text that reaches up to it. A reader never fills a gap itself: the event that it
received may be one of several that are missing, and a new answer has the others, too.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from rehydrate.core import wire
from rehydrate.core.codecs import decode
from rehydrate.core.event import CONTENT, CREATE, TERMINAL, UNDECODED, ChannelMessage, Event
from rehydrate.core.fold import EDITABLE, STEPS, MessageState, Outcome
from rehydrate.core.text.content import PART_TYPES
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import MAX_OPEN, Timeline

if TYPE_CHECKING:
    from collections.abc import Mapping


_UNKNOWN_ACTION = -1
"""The action of a message whose action cannot be read: no codec recognises it."""


class Verdict(Enum):
    """What a reader does with a live event."""

    DROP = "drop"
    APPLY = "apply"
    AGAIN = "again"
    """The reader lacks something: hydrate again, the first way, with jitter."""


def verdict(state: MessageState | None, event: Event) -> Verdict:
    """Return what *event* means to a reader.

    Args:
        state: the message that the event belongs to; None: the reader has no such message.
        event: a live event, whole.
    """
    if state is None:  # row 1
        return _verdict_on_new(event)
    if state.ended and state.owner is None:  # row 2
        return Verdict.DROP
    if state.owner is not None and state.owner.client_id != event.client_id:  # row 3
        return Verdict.DROP
    if event.gen < state.gen:  # row 4
        return Verdict.DROP
    if event.gen > state.gen:  # row 5
        return Verdict.DROP if state.ended else _verdict_on_new(event)
    if event.edit is not None and state.reaches(event):  # before row 6
        known = event.kind not in EDITABLE or state.has_edit(event)
        return Verdict.DROP if known else Verdict.APPLY
    if event.seq is None and event.id in state.recent:  # row 6
        return Verdict.DROP
    if event.version is not None:  # row 7
        return _verdict_on_version(state, event)
    if event.kind == "repair":  # rows 8 to 11
        return _verdict_on_repair(state, event)
    if event.seq is not None and any(a <= event.seq <= b for a, b in state.gaps()):
        return Verdict.AGAIN  # row 12
    if state.ended:  # row 13
        return Verdict.DROP
    return _verdict_on_next(state, event)


def _verdict_on_next(state: MessageState, event: Event) -> Verdict:
    """Return rows 14 to 20: an event that continues an open message, or ends it."""
    if event.kind == "stop" and state.gaps():
        return Verdict.AGAIN  # the text was committed before that end was published (law 7)
    if event.seq is None:
        sealed = state.sealed and event.kind in CONTENT
        return Verdict.DROP if sealed or _was_seen(state, event) else Verdict.APPLY
    last = -1 if state.seq is None else state.seq
    if event.seq <= last:
        return Verdict.AGAIN if event.kind == "stop" else Verdict.DROP
    return Verdict.APPLY if event.seq <= max(last, 0) + 1 else Verdict.AGAIN


def _was_seen(state: MessageState, event: Event) -> bool:
    """Return True if *event*, which has no seq, is not after those of *state*."""
    if event.serial is None:
        return state.has_forgotten(event.timestamp_ms)
    return bool(state.serial) and event.serial <= (state.serial or "")


def _verdict_on_new(event: Event) -> Verdict:
    """Return "new" of rows 1 and 5: an unknown message, or a gen that restarts a known one."""
    if event.version is not None and event.version.only_adds:
        return Verdict.DROP
    if event.is_pointer:
        return Verdict.AGAIN
    if event.seq is None or event.kind == "repair" or event.seq <= 1:
        return Verdict.APPLY
    return Verdict.AGAIN


def _verdict_on_version(state: MessageState, event: Event) -> Verdict:
    """Return row 7: of a channel message that grows, the greatest version counts, whole."""
    if state.sealed or event.version is None or event.serial is None:
        return Verdict.DROP
    known = state.versioned.get(event.serial)
    return Verdict.APPLY if known is None or known.version < event.version.serial else Verdict.DROP


def _verdict_on_repair(state: MessageState, event: Event) -> Verdict:
    """Return rows 8 to 11."""
    if event.seq is None:
        if _was_seen(state, event):
            return Verdict.DROP
    elif event.seq <= state.covered:
        return Verdict.DROP
    elif state.seq is not None and event.seq < state.seq:
        return Verdict.AGAIN  # an answer does not show where that seq ends in its text
    if event.is_pointer or state.ended or state.gaps():
        return Verdict.AGAIN
    return Verdict.APPLY


def _is_edit_of_content(state: MessageState, event: Event) -> bool:
    """Return True if *event* is an edit of text that *state* contains."""
    edits = event.edit is not None and event.kind in CONTENT
    return edits and state.role == "assistant" and state.reaches(event)


def received(message: Any) -> ChannelMessage:
    """Return *message*, of any Ably SDK, as codecs read it; never raise.

    A member whose type is not Ably's counts as absent; such a name or action counts as unknown.
    """
    name, version = getattr(message, "name", None), getattr(message, "version", None)
    serial = _text(getattr(message, "serial", None))
    action = getattr(message, "action", None)
    at_ms = _integer(getattr(message, "timestamp", None), 0)
    return ChannelMessage(
        name if name is None or isinstance(name, str) else "",
        UNDECODED if getattr(message, "encoding", None) else getattr(message, "data", None),
        _text(getattr(message, "id", None)),
        serial,
        at_ms if 0 <= at_ms <= wire.MAX_MS else 0,
        _text(getattr(message, "client_id", None)),
        getattr(message, "extras", None),
        CREATE if action is None else _integer(action, _UNKNOWN_ACTION),
        _text(getattr(version, "serial", None)) or serial,
        getattr(version, "metadata", None),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any, otherwise: int) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # JSON does not tell 1.0 from 1
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else otherwise


class View:
    """What a reader shows: an answer, taken further by the channel messages it receives.

    Args:
        answer: the body of ``GET /v1/conversations/{id}``, parsed.

    Attributes:
        stale: the answer has a reason with ``retry``, so hydrating again can help.
        unknown_parts: how many parts of the answer are left out, since only a newer service knows them.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.unknown_parts = 0
        self._timeline = Timeline(wire.state_of(self._known(each)) for each in answer["messages"])
        self._timeline.excluded = wire.exclusions_of(answer).rule
        self._token_names = frozenset(answer.get("token_names", ()))
        self._timeline.spare = MAX_OPEN  # a reader cannot know which responses have a row
        if answer.get("older") is not None:
            self._timeline.anonymous.complete_from = None
        self._chains = AppendChains()
        self._replays: set[str] = set()
        self._order: list[str] = [body["id"] for body in answer["messages"]]
        self._encoded: dict[str, dict[str, Any]] = {}
        self.stale = any(reason["retry"] for reason in answer["reasons"])

    def _known(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return *body* without parts of types that only a newer service knows, and count those."""
        parts = [part for part in body["parts"] if part["type"] in PART_TYPES]
        self.unknown_parts += len(body["parts"]) - len(parts)
        return {**body, "parts": parts}

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages in their wire form: those of the answer, then new ones as they came.

        A message that did not change is the same object as before.
        """
        known, encoded = self._timeline.messages, self._encoded
        for id_ in self._order:
            if id_ not in encoded:
                encoded[id_] = wire.message(known[id_])
        return [encoded[id_] for id_ in self._order]

    def apply(self, message: Any) -> bool:
        """Apply a channel message of any Ably SDK.

        Args:
            message: has ``name``, ``data``, ``id``, ``serial``, ``timestamp``, ``client_id`` and
                ``extras``, ``action``, ``version`` and ``encoding``.

        Returns:
            False if the view lacks something: hydrate again, with a new attach.
        """
        event = decode(received(message), self._token_names)
        return event is None or self.apply_event(event) is not Verdict.AGAIN

    def apply_event(self, event: Event) -> Verdict:
        """Apply *event* by the drop rule; return the verdict."""
        if self._timeline.excluded.outcome_of(event, self._timeline.messages) is not None:
            return Verdict.DROP
        if event.replay_of is not None:
            return self._apply_replay(event)
        whole = self._chains.whole(event)
        if whole is None:
            return Verdict.DROP if self._timeline.name(event) is None else Verdict.AGAIN
        return self._apply(whole)

    def _apply_replay(self, event: Event) -> Verdict:
        if event.message_id is None:
            return Verdict.DROP
        if event.kind == "start":
            self._replays.add(event.message_id)
        elif event.message_id not in self._replays:
            return Verdict.DROP
        return self._apply(event._replace(replay_of=None))

    def _apply(self, event: Event) -> Verdict:
        if ("open", event.kind) not in STEPS:
            return Verdict.DROP
        before = self._timeline.find(event)
        decision = verdict(before, event)
        if decision is Verdict.APPLY and before is not None and _is_edit_of_content(before, event):
            before.mark_inexact()  # an answer does not show the place of the edit in the text
            before.note_edit(event.serial or "", event.edit or "")
            self._encoded.pop(before.id, None)
        elif decision is Verdict.APPLY:
            applied = self._timeline.apply_to(before, event)
            # if it was refused (too many open messages), only the store knows which ones exist
            if applied.state is None:
                return Verdict.AGAIN if applied.outcome is Outcome.REFUSED else decision
            if applied.was_new:
                self._order.append(applied.state.id)
            self._encoded.pop(applied.state.id, None)
        elif decision is Verdict.DROP:
            self._timeline.note_dropped(before, event)
            if before is not None:
                self._encoded.pop(before.id, None)  # it may keep another recent id
        return decision

    @property
    def open(self) -> list[str]:
        """The ids of the messages that are not terminal."""
        known = self._timeline.messages.values()
        return [state.id for state in known if state.status not in TERMINAL]
