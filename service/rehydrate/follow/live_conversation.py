"""A followed conversation as it stands: what was read, taken further by what is live."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.client_view import Verdict, verdict
from rehydrate.core.event import TERMINAL, Event
from rehydrate.core.fold import STEPS, MessageState, Outcome, fold
from rehydrate.core.positions import MARGIN_MS, serial_time_ms
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.text.size_budget import TOO_LARGE
from rehydrate.core.timeline import MOST_OPEN
from rehydrate.core.window import REWIND_REACH_MS
from rehydrate.hydrate.hydrate import MAX_LIMIT, Hydrated
from rehydrate.ports import Finished

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.core.event import Kind
    from rehydrate.core.timeline import Reason
    from rehydrate.hydrate.hydrate import Reading

_MOST_ROWS = MAX_LIMIT + 50
_MOST_REPLAYS = 100

Part = dict[str, Any]


class Taken(NamedTuple):
    """What became of a live message: the verdict, and what is told of which message."""

    verdict: Verdict
    told: tuple[Event, ...] = ()
    message_id: str | None = None


_DROPPED = Taken(Verdict.DROP)
_TOO_MANY = Taken(Verdict.AGAIN)
"""Only the store knows which of so many responses are kept."""


class LiveConversation:
    """A conversation as it stands: what was read of it, and what was live since.

    Memory: what is open, and the newest finished messages in their wire form.

    Args:
        reading: what was read; it is taken further.
        agents: the clientIds that may publish responses; empty: any.
    """

    def __init__(self, reading: Reading, agents: frozenset[str]) -> None:
        self._reading = reading
        self._agents = agents
        self._timeline = reading.timeline
        self._timeline.spare = MOST_OPEN  # what is live does not say which responses have a row
        row = reading.stored.conversation
        self._tombstone = row.tombstone if row else None
        self._rows = {row.id: row for row in reading.stored.finished}
        self._rows_changed = False
        self._young: deque[tuple[int, str]] = deque()
        from_serial = reading.window.rewind_from
        self._settled = {from_serial: serial_time_ms(from_serial) or 0} if from_serial else {}

    @property
    def reading(self) -> Reading:
        """What was read, with what was taken since."""
        return self._reading

    @property
    def stale(self) -> bool:
        """Whether reading again can help."""
        return any(reason.retry for reason in self._reading.reasons) or any(
            state.pointer > state.covered for state in self._timeline.messages.values()
        )

    @property
    def is_open(self) -> bool:
        """Whether a response has not ended."""
        return any(state.status not in TERMINAL for state in self._timeline.messages.values())

    def take(self, event: Event) -> Taken:
        """Take it further by a live *event*, if the drop rule has it so."""
        self._note(event)
        if not self._heeds(event):
            return _DROPPED
        before = self._find(event)
        said = verdict(before, event)
        if said is not Verdict.APPLY:
            return Taken(said)
        return self.force(event)

    def force(self, event: Event) -> Taken:
        """Fold *event*, whatever is missing before it: that becomes a gap."""
        before = self._find(event)
        parts = before.parts() if before is not None and event.version is not None else []
        went_on = before is None or not before.ended
        applied = self._timeline.apply_to(before, event)
        message = applied.state
        if message is None and applied.outcome is Outcome.REFUSED:
            return _TOO_MANY
        if message is None or applied.outcome is not Outcome.FOLDED:
            return _DROPPED
        if went_on and message.error is TOO_LARGE:
            told: tuple[Event, ...] = (_cut_off(event, message),)
        elif event.version is None:
            told = (event,)
        else:
            told = tuple(grown(parts, message.parts(), event))
        if message.status in TERMINAL:
            self._settle(message)
        return Taken(Verdict.APPLY, told, message.id)

    def knows(self, event: Event) -> bool:
        """Whether it is known which message *event* belongs to."""
        return self._timeline.name(event) is not None

    def lose(self) -> None:
        """Messages were missed, and nobody can say which."""
        self._timeline.lost()

    def warn(self, reason: Reason) -> None:
        """Let every answer say *reason*."""
        self._reading = self._reading._replace(reasons=[*self._reading.reasons, reason])

    def answer(self, limit: int, now_ms: int) -> Hydrated:
        """As a hydrate answers, of what stands."""
        if self._rows_changed:
            self._take_rows()
        window = self._reading.window
        window.read_at_ms = now_ms
        self._age(now_ms)
        low_ms = now_ms - REWIND_REACH_MS
        held = (serial for serial, at_ms in self._settled.items() if at_ms >= low_ms)
        older = (serial for serial in held if serial != window.newest_serial)
        window.rewind_from = max(older, default=None)
        return self._reading.answer(limit)

    def _note(self, event: Event) -> None:
        window, serial = self._reading.window, event.serial
        if serial is not None:
            if window.newest_serial is None or serial > window.newest_serial:
                window.newest_serial = serial
            self._age(event.timestamp_ms)
            self._young.append((event.timestamp_ms, serial))

    def _age(self, now_ms: int) -> None:
        young = self._young
        while young and young[0][0] <= now_ms - MARGIN_MS:
            at_ms, serial = young.popleft()
            self._settled[serial] = at_ms
            if len(self._settled) > 2:  # noqa: PLR2004 - the newest of all, and one before it
                del self._settled[min(self._settled)]

    def _heeds(self, event: Event) -> bool:
        if event.replay_of is not None or ("open", event.kind) not in STEPS:
            return False
        if self._agents and event.kind != "prompt" and event.client_id not in self._agents:
            return False
        return self._tombstone is None or not self._tombstone.covers(event)

    def _find(self, event: Event) -> MessageState | None:
        state = self._timeline.find(event)
        if state is None and (row := self._rows.get(self._timeline.name(event) or "")) is not None:
            state = wire.state_of(json.loads(row.wire))
            state.position = row.position
            self._timeline.add(state)
        return state

    def _settle(self, state: MessageState) -> None:
        """Keep what has ended in its wire form alone."""
        if state.anonymous or state.position is None or state.gaps() or not state.exact:
            return
        self._rows[state.id] = Finished(state.position, state.id, wire.encode(state))
        self._timeline.messages.pop(state.id, None)
        self._rows_changed = True

    def _take_rows(self) -> None:
        rows, stored = self._rows, self._reading.stored
        if len(rows) > _MOST_ROWS:
            newest = sorted(rows.values())[-MAX_LIMIT:]
            self._rows = rows = {row.id: row for row in newest}
            stored = stored._replace(more=True)
        stored = stored._replace(finished=list(rows.values()))
        self._reading = self._reading._replace(stored=stored)
        self._rows_changed = False


def _cut_off(event: Event, message: MessageState) -> Event:
    """What readers are told of *event*, which the message had no room for: that it ended."""
    stop = Event("stop", *event[1:8])._replace(serial=version_serial(event))
    return stop._replace(status=message.status, error=message.error)


def grown(before: list[Part], after: list[Part], event: Event) -> Iterator[Event]:
    """What readers are told who know the parts *before*, so that they have those *after*.

    A channel message that grows is told as what is new of it, or, where something was not only
    appended, as a repair of all of it; and as a stop, if it says that it ends the response.
    """
    plain = Event(event.kind, *event[1:8])._replace(serial=version_serial(event))
    new = _new(before, after)
    if event.kind == "prompt":
        yield plain._replace(text=spoken_text(after))
        return
    if new is None:
        yield plain._replace(kind="repair", text=spoken_text(after), value=after)
    else:
        for fields in new:
            yield plain._replace(**fields)
    if event.ends:
        yield plain._replace(kind="stop", status=event.status)


def _new(before: list[Part], after: list[Part]) -> list[dict[str, Any]] | None:
    """What was appended, as fields of events; None if that is not all that has changed."""
    if len(after) < len(before):
        return None
    new = []
    for index, part in enumerate(after):
        old = before[index] if index < len(before) else None
        if old is not None and _but(part, *_PLACES) == _but(old, *_PLACES):
            continue
        fields = _told_text(old, part) if part["type"] in _KINDS else _told_call(old, part)
        if fields is None:
            return None
        if index < len(before) - 1 and part["type"] in _KINDS and part.get("part") is None:
            return None  # a reader would append it to the last part
        new.append(fields)
    return new


def _told_text(old: Part | None, part: Part) -> dict[str, Any] | None:
    same = old is None or _but(part, "text", *_PLACES) == _but(old, "text", *_PLACES)
    had = "" if old is None else old.get("text", "")
    if not same or not part["text"].startswith(had):
        return None
    kind, text = _KINDS[part["type"]], part["text"][len(had) :]
    return {"kind": kind, "text": text, "part": part.get("part")}


def _told_call(old: Part | None, part: Part) -> dict[str, Any] | None:
    """A call as it began, its arguments as they came, or its result."""
    call = {"tool_call_id": part["tool_call_id"]}
    if old is None:
        begun = {"kind": "tool_call", **call, "name": part["name"], "value": part["args"]}
        return None if "result_through" in part else begun
    if "result_through" in part and "result_through" not in old:
        if _but(part, *_RESULT) != _but(old, *_RESULT):
            return None
        failed = {"status": "failed"} if part["status"] == "failed" else {}
        return {"kind": "tool_result", **call, "value": part["result"], **failed}
    had, args = old["args"], part["args"]
    streamed = isinstance(had, str) and isinstance(args, str) and args.startswith(had)
    if not streamed or _but(part, "args", *_PLACES) != _but(old, "args", *_PLACES):
        return None
    return {"kind": "tool_args", **call, "text": args[len(had) :]}


def _but(part: Part, *keys: str) -> Part:
    return {key: value for key, value in part.items() if key not in keys}


def version_serial(event: Event) -> str | None:
    """The serial of what *event* tells: of a channel message that grows, its version's."""
    return event.serial if event.version is None else event.version.serial


_KINDS: dict[str, Kind] = {"text": "token", "refusal": "refusal", "reasoning": "reasoning"}
_PLACES = ("through", "result_through")
_RESULT = (*_PLACES, "result", "status")


class FollowedReplays:
    """Replays that are followed live from their start; they are in no answer.

    Args:
        agents: the clientIds that may publish them; empty: any.
    """

    def __init__(self, agents: frozenset[str] = frozenset()) -> None:
        self._agents = agents
        self._known: OrderedDict[str, tuple[MessageState, int]] = OrderedDict()

    def take(self, event: Event, number: int) -> int | None:
        """The place of the start of *event*'s replay; None if the event is not to be told.

        *number*: the place that the event would have.
        """
        if event.message_id is None or event.replay_of is None:
            return None
        if self._agents and event.client_id not in self._agents:
            return None
        if event.message_id not in self._known:
            if event.kind != "start":
                return None
            self._known[event.message_id] = (MessageState(event.message_id), number)
            if len(self._known) > _MOST_REPLAYS:
                self._known.popitem(last=False)
        state, started = self._known[event.message_id]
        folded = fold(state, event._replace(replay_of=None)) is Outcome.FOLDED
        return started if folded else None

    def running_since_before(self, number: int) -> bool:
        """Whether one runs that began at or before *number*."""
        return any(not state.ended and at <= number for state, at in self._known.values())
