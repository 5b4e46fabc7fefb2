"""Current state of a followed conversation: what was read, advanced by live events."""

from __future__ import annotations

import json
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.client_view import Verdict, verdict
from rehydrate.core.event import TERMINAL, Event
from rehydrate.core.fold import STEPS, MessageState, Outcome, fold
from rehydrate.core.positions import MARGIN_MS, serial_time_ms
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.text.content import TOO_LARGE
from rehydrate.core.timeline import MAX_OPEN, names_of
from rehydrate.core.window import REWIND_REACH_MS
from rehydrate.errors import StoreUnavailable
from rehydrate.hydrate.hydrate import MAX_LIMIT, Hydrated, Page, answer, is_announced
from rehydrate.limits import BoundedCache
from rehydrate.ports import Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rehydrate.context import Context
    from rehydrate.core.event import Kind
    from rehydrate.core.timeline import Reason
    from rehydrate.hydrate.hydrate import Reading

_log = logging.getLogger(__name__)

_MAX_ROWS = MAX_LIMIT + 50
MAX_ROW_BYTES = 8_000_000
"""How much of the wire form of finished messages is kept; a page then has fewer, and ``older``."""

_MAX_REPLAYS = 100

Part = dict[str, Any]

_MAX_CONTESTED = 100
"""Maximum number of remembered pairs of a message and a client that started it but does not own it."""


class Change(NamedTuple):
    """The effect of a live event: the verdict, and the events to emit for which message.

    ``contested``: a client other than the owner starts the open message for the first time. A claim
    changes the owner only in the store, so reading again shows who owns the message.
    """

    verdict: Verdict
    emitted: tuple[Event, ...] = ()
    message_id: str | None = None
    contested: bool = False


_DROPPED = Change(Verdict.DROP)
_TOO_MANY = Change(Verdict.AGAIN)
"""Too many open responses: only the store has the list of those that are accepted."""


class LiveConversation:
    """A conversation as it was read, advanced by the live events since.

    In memory: the open messages, and the newest finished messages in their wire form.

    Args:
        reading: the conversation as it was read; its timeline is advanced in place.
        earlier: the conversation that this one replaces.

    Attributes:
        contested: pairs of an open message and a client that started it but does not own it.
    """

    def __init__(self, reading: Reading, earlier: LiveConversation | None = None) -> None:
        self._reading = reading
        self.contested: BoundedCache[tuple[str, str | None], None] = (
            BoundedCache(_MAX_CONTESTED) if earlier is None else earlier.contested
        )
        self._timeline = reading.timeline
        self._timeline.spare = MAX_OPEN  # live events do not show which responses have a row
        self._rows = {row.id: row for row in reading.stored.finished}
        self._row_bytes = sum(len(row.wire) for row in self._rows.values())
        self._rows_changed = False
        self._recent_serials: deque[tuple[int, str]] = deque()
        self._add_anonymous()
        from_serial = reading.window.rewind_from
        self._older_serials = {from_serial: serial_time_ms(from_serial) or 0} if from_serial else {}

    @property
    def reading(self) -> Reading:
        """The conversation as it was read, with the events applied since."""
        return self._reading

    @property
    def stale(self) -> bool:
        """Whether reading again may add what is missing."""
        if any(reason.retry for reason in self._reading.reasons):
            return True
        states = self._timeline.messages.values()
        return is_announced(self._timeline) and any(s.pointer > s.covered for s in states)

    @property
    def is_open(self) -> bool:
        """Whether a response is in progress."""
        return any(state.status not in TERMINAL for state in self._timeline.messages.values())

    async def look_up(self, ctx: Context, events: Iterable[Event]) -> None:
        """Load what *events* belong to and is neither in memory nor on the page that was read.

        Await this before they are applied: an event of a message on an older page would otherwise
        begin a message.

        Raises:
            StoreUnavailable: Postgres does not answer.
        """
        if not self._reading.stored.more:
            return
        asked = self._timeline.lookup(event for event in events if self._accepts(event))
        asked = asked._replace(ids=asked.ids - self._rows.keys())
        if not asked.is_empty:
            states = await ctx.store.states(self._reading.conversation_id, asked)
            self._timeline.learn(asked, states)

    def apply(self, event: Event) -> Change:
        """Apply a live *event* if the drop rule permits it."""
        self._note_serial(event)
        if not self._accepts(event):
            return _DROPPED
        message = self._find(event)
        decision = verdict(message, event)
        if decision is not Verdict.APPLY:
            if decision is Verdict.DROP:
                self._timeline.note_dropped(message, event)
            return Change(decision, contested=self._contests(message, event))
        return self._fold(message, event)

    def _contests(self, message: MessageState | None, event: Event) -> bool:
        if message is None or message.ended or message.owner is None or event.kind != "start":
            return False
        key = (message.id, event.client_id)
        if message.owner.client_id == event.client_id or key in self.contested:
            return False
        self.contested[key] = None
        return True

    def _accepts(self, event: Event) -> bool:
        return ("open", event.kind) in STEPS and self._timeline.rejection(event) is None

    def force(self, event: Event) -> Change:
        """Apply *event* although earlier events are missing: they become a gap."""
        if self._timeline.rejection(event) is not None:
            return _DROPPED
        return self._fold(self._find(event), event)

    def _fold(self, before: MessageState | None, event: Event) -> Change:
        changes = event.version is not None or event.edit is not None
        parts = before.parts() if before is not None and changes else []
        unreadable = 0 if before is None else before.unreadable
        edited = before is not None and event.edit is not None and before.reaches(event)
        was_open = before is None or not before.ended
        applied = self._timeline.apply_to(before, event)
        message = applied.state
        if applied.outcome is Outcome.POINTER:
            self._timeline.counts[Outcome.POINTER.value] += 1
        if message is None and applied.outcome is Outcome.REFUSED:
            return _TOO_MANY
        if message is None or applied.outcome is not Outcome.FOLDED:
            return _DROPPED
        if was_open and message.error is TOO_LARGE:
            emitted: tuple[Event, ...] = (_cut_off(event, message),)
        elif edited and event.kind != "prompt":  # nothing, where its place in the text is not known
            changed = message.parts() != parts or message.unreadable != unreadable
            emitted = (_whole_of(message, event),) if changed else ()
        elif event.version is None:
            emitted = (event,)
        else:
            changed = message.unreadable != unreadable
            shown = event._replace(unreadable=message.unreadable)
            emitted = tuple(grown(parts, message.parts(), shown, whole=changed))
        if message.status in TERMINAL:
            self._settle(message)
        return Change(Verdict.APPLY, emitted, message.id)

    def has_erased(self, event: Event) -> bool:
        """Whether *event* belongs to what was erased."""
        row = self._reading.stored.conversation
        return row is not None and row.tombstone is not None and row.tombstone.covers(event)

    def names_message_of(self, event: Event) -> bool:
        """Whether the message that *event* belongs to can be named."""
        return self._timeline.name(event) is not None

    def mark_lost(self) -> None:
        """Record that unidentified messages were missed."""
        self._timeline.mark_inexact()

    def add_reason(self, reason: Reason) -> None:
        """Add *reason* to every answer: it is not complete."""
        self._reading = self._reading._replace(reasons=[*self._reading.reasons, reason])

    def answer(self, limit: int, now_ms: int) -> Hydrated:
        """Return the current state as a hydrate does.

        Args:
            limit: how many finished messages, the newest.
            now_ms: the time, ms since 1970.
        """
        if self._rows_changed:
            self._update_rows()
        window = self._reading.window
        window.read_at_ms = now_ms
        self._age_serials(now_ms)
        low_ms = now_ms - REWIND_REACH_MS
        reachable = (serial for serial, at_ms in self._older_serials.items() if at_ms >= low_ms)
        older = (serial for serial in reachable if serial != window.newest_serial)
        window.rewind_from = max(older, default=None)
        return answer(self._reading, Page(limit))

    def _note_serial(self, event: Event) -> None:
        window, serial = self._reading.window, event.serial
        if serial is not None:
            if window.newest_serial is None or serial > window.newest_serial:
                window.newest_serial = serial
            self._age_serials(event.timestamp_ms)
            self._recent_serials.append((event.timestamp_ms, serial))

    def _age_serials(self, now_ms: int) -> None:
        recent = self._recent_serials
        while recent and recent[0][0] <= now_ms - MARGIN_MS:
            at_ms, serial = recent.popleft()
            self._older_serials[serial] = at_ms
            if len(self._older_serials) > 2:  # noqa: PLR2004 - the newest of all, and one before it
                del self._older_serials[min(self._older_serials)]

    def _add_anonymous(self) -> None:
        """Keep all anonymous messages as states: only their place tells which events are theirs."""
        stored = self._reading.stored
        self._timeline.anonymous.complete_from = (
            stored.finished[0].position if stored.more and stored.finished else ""
        )
        for row in stored.finished:
            if b'"anonymous":true' in row.wire and row.id not in self._timeline.messages:
                self._restore(row)

    def _find(self, event: Event) -> MessageState | None:
        state = self._timeline.find(event)
        if state is not None:
            return state
        name = self._timeline.name(event)
        rows = [self._rows.get(id_) for id_ in (names_of(event) if name is None else [name])]
        for row in rows:
            if row is not None:
                self._restore(row)
        return self._timeline.find(event) if any(rows) else None

    def _restore(self, row: Finished) -> None:
        if row.id not in self._timeline.messages:
            self._timeline.add(wire.state_of(json.loads(row.wire), position=row.position))

    def _settle(self, state: MessageState) -> None:
        """Keep a finished message in its wire form only."""
        if state.anonymous or state.position is None or state.gaps() or not state.exact:
            return
        row = Finished(state.position, state.id, wire.encode(state))
        replaced = self._rows.get(state.id)
        self._row_bytes += len(row.wire) - (0 if replaced is None else len(replaced.wire))
        self._rows[state.id] = row
        self._timeline.messages.pop(state.id, None)
        self._rows_changed = True
        if len(self._rows) > _MAX_ROWS or self._row_bytes > MAX_ROW_BYTES:
            self._update_rows()

    def _update_rows(self) -> None:
        rows, stored = self._rows, self._reading.stored
        if len(rows) > _MAX_ROWS or self._row_bytes > MAX_ROW_BYTES:
            self._rows = rows = {row.id: row for row in _newest(rows.values())}
            self._row_bytes = sum(len(row.wire) for row in rows.values())
            stored = stored._replace(more=True)
        stored = stored._replace(finished=list(rows.values()))
        self._reading = self._reading._replace(stored=stored)
        self._rows_changed = False


def _newest(rows: Iterable[Finished]) -> list[Finished]:
    """Return the newest of *rows*, at least one and at most half of what may be kept."""
    newest: list[Finished] = []
    size = 0
    for row in sorted(rows, reverse=True)[:MAX_LIMIT]:
        size += len(row.wire)
        if newest and size > MAX_ROW_BYTES // 2:
            break
        newest.append(row)
    return newest[::-1]


async def look_up(
    current: Callable[[], LiveConversation | None], ctx: Context, event: Event
) -> bool:
    """Have the *current* conversation look up *event*; return False if the store does not answer."""
    try:
        while (conversation := current()) is not None:
            await conversation.look_up(ctx, [event])
            if conversation is current():  # it was not replaced meanwhile
                break
    except StoreUnavailable:
        _log.warning("the store does not answer while a conversation is followed")
        return False
    return True


def _cut_off(event: Event, message: MessageState) -> Event:
    """Return the stop that followers receive instead of *event*, which exceeded the size limit."""
    return event.at_same_place("stop", status=message.status, error=message.error)


def _whole_of(message: MessageState, event: Event) -> Event:
    """Return a repair with the whole content of *message*, because *event* changed its middle."""
    parts, counted = message.parts(), message.unreadable
    text = spoken_text(parts)
    return event.at_same_place("repair", text=text, value=parts, unreadable=counted)


def grown(
    before: list[Part], after: list[Part], event: Event, *, whole: bool = False
) -> Iterator[Event]:
    """Yield the events that take a reader from the parts *before* to the parts *after*.

    A new version of a growing channel message becomes the events for the appended content. Where
    content was changed and not only appended, it becomes a repair of the whole message. If *event*
    ends the response, a stop follows.

    Args:
        before: the parts that the reader shows.
        after: the parts that it has to show.
        event: the version; its ``unreadable`` is that of the message.
        whole: return a repair in any case.
    """
    appended = None if whole else _appended(before, after)
    unreadable = event.unreadable
    if event.kind == "prompt":
        yield event.at_same_place("prompt", text=spoken_text(after), unreadable=unreadable)
        return
    if appended is None:
        text = spoken_text(after)
        yield event.at_same_place("repair", text=text, value=after, unreadable=unreadable)
    else:
        for fields in appended:
            yield event.at_same_place(**fields)
    if event.ends:
        yield event.at_same_place("stop", status=event.status)


def _appended(before: list[Part], after: list[Part]) -> list[dict[str, Any]] | None:
    """Return the appended content as fields of events; None if anything else has changed."""
    if len(after) < len(before):
        return None
    appended = []
    for index, part in enumerate(after):
        old = before[index] if index < len(before) else None
        if old is not None and _without(part, *_POSITION_KEYS) == _without(old, *_POSITION_KEYS):
            continue
        fields = (
            _appended_text(old, part)
            if part["type"] in _KIND_OF_PART
            else _appended_call(old, part)
        )
        if fields is None:
            return None
        if index < len(before) - 1 and part["type"] in _KIND_OF_PART and part.get("part") is None:
            return None  # a reader would append it to the last part
        appended.append(fields)
    return appended


def _appended_text(old: Part | None, part: Part) -> dict[str, Any] | None:
    same = old is None or _without(part, "text", *_POSITION_KEYS) == _without(
        old, "text", *_POSITION_KEYS
    )
    old_text = "" if old is None else old.get("text", "")
    if not same or not part["text"].startswith(old_text):
        return None
    kind, text = _KIND_OF_PART[part["type"]], part["text"][len(old_text) :]
    return {"kind": kind, "text": text, "part": part.get("part")}


def _appended_call(old: Part | None, part: Part) -> dict[str, Any] | None:
    """Return the fields of a new call, of its next arguments, or of its result."""
    call = {"tool_call_id": part["tool_call_id"]}
    if old is None:
        started = {"kind": "tool_call", **call, "name": part["name"], "value": part["args"]}
        return None if "result_through" in part else started
    if "result_through" in part and "result_through" not in old:
        if _without(part, *_RESULT_KEYS) != _without(old, *_RESULT_KEYS):
            return None
        failed = {"status": "failed"} if part["status"] == "failed" else {}
        return {"kind": "tool_result", **call, "value": part["result"], **failed}
    old_args, args = old["args"], part["args"]
    streamed = isinstance(old_args, str) and isinstance(args, str) and args.startswith(old_args)
    if not streamed or _without(part, "args", *_POSITION_KEYS) != _without(
        old, "args", *_POSITION_KEYS
    ):
        return None
    return {"kind": "tool_args", **call, "text": args[len(old_args) :]}


def _without(part: Part, *keys: str) -> Part:
    return {key: value for key, value in part.items() if key not in keys}


def version_serial(event: Event) -> str | None:
    """Return the serial to emit: of a growing channel message, that of the version."""
    return event.serial if event.version is None else event.version.serial


_KIND_OF_PART: dict[str, Kind] = {"text": "token", "refusal": "refusal", "reasoning": "reasoning"}
_POSITION_KEYS = ("through", "result_through")
_RESULT_KEYS = (*_POSITION_KEYS, "result", "status")


class FollowedReplays:
    """Replays that are followed live from their start; no answer contains them.

    Args:
        agents: the clientIds that may publish them; empty: any.
    """

    def __init__(self, agents: frozenset[str] = frozenset()) -> None:
        self._agents = agents
        self._replays: BoundedCache[str, tuple[MessageState, int]] = BoundedCache(_MAX_REPLAYS)

    def apply(
        self, event: Event, number: int, conversation: LiveConversation | None = None
    ) -> int | None:
        """Return the buffer position of the start of *event*'s replay; None to drop the event.

        Args:
            event: an event of a replay.
            number: the position that the event would have in the buffer.
            conversation: the conversation; replays of what was erased of it are dropped.
        """
        if event.message_id is None or event.replay_of is None:
            return None
        if conversation is not None and conversation.has_erased(event):
            return None
        if self._agents and event.client_id not in self._agents:
            return None
        replay = self._replays.get(event.message_id)
        if replay is None:
            if event.kind != "start":
                return None
            replay = self._replays[event.message_id] = (MessageState(event.message_id), number)
        state, started = replay
        folded = fold(state, event._replace(replay_of=None)) is Outcome.FOLDED
        return started if folded else None

    def running_since_before(self, number: int) -> bool:
        """Whether a replay is running that started at or before position *number*."""
        return any(not state.ended and at <= number for _, (state, at) in self._replays.items())
