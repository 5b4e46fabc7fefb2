"""Bounded, ordered buffer of follower events; each event is serialized once.

All followers of a conversation read the same buffer, each from a cursor of its own. The buffer has
a limit, so that a slow follower costs no memory: a cursor that has fallen out of the buffer starts
again from a snapshot.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from rehydrate.core.json import dump
from rehydrate.limits import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.core.event import Event

MAX_EVENTS = 2_000
"""How many events a follower may be behind before it gets a new snapshot."""

MAX_BYTES = 4_000_000
"""How many bytes of events a follower may be behind before it gets a new snapshot. Encoded events,
which are cached beside them, take about as much again.
"""

_EVENT_BYTES = 500
"""What an event takes in memory without its content, about."""

_MAX_SNAPSHOTS = 2
_SNAPSHOT_REUSE = 500
"""A snapshot is reused for new followers until this many events have been appended after it."""

_MAX_NUMBER_DIGITS = 18


class FollowEvent:
    """One event that a follower receives.

    Attributes:
        kind: ``snapshot``; ``prompt``; ``start``, ``token``, ``refusal``, ``reasoning``,
            ``tool_call``, ``tool_args``, ``tool_result``, ``repair`` or ``stop`` of a response;
            ``again``: messages may have been missed, and a new snapshot will follow.
        number: the position in the buffer.
        id: an opaque name of that position; a reader resumes after it.
        event: the channel event, for all kinds but ``snapshot`` and ``again``.
        message_id: the message that the event belongs to.
        replay_from: for an event of a replay, the number of that replay's start.
        frame: the event as an HTTP handler sends it, cached so that it is encoded once.
        size_bytes: what the channel event takes in memory, about.
    """

    __slots__ = (
        "_body",
        "event",
        "frame",
        "id",
        "kind",
        "message_id",
        "number",
        "replay_from",
        "size_bytes",
    )

    def __init__(
        self,
        kind: str,
        number: int,
        id_: str,
        *,
        event: Event | None = None,
        message_id: str | None = None,
        body: bytes | None = None,
        replay_from: int | None = None,
    ) -> None:
        self.kind = kind
        self.number = number
        self.id = id_
        self.event = event
        self.message_id = message_id
        self.replay_from = replay_from
        self.frame: bytes | None = None
        self.size_bytes = _EVENT_BYTES if event is None else event_bytes(event)
        self._body = body

    @property
    def body(self) -> bytes:
        """The payload as JSON; for a snapshot the same body as a hydrate's."""
        if self._body is None:
            payload = {} if self.event is None else payload_of(self.event, self.message_id)
            self._body = dump(payload)
        return self._body

    @property
    def data(self) -> dict[str, Any]:
        """The payload, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


def payload_of(event: Event, message_id: str | None) -> dict[str, Any]:
    """Return the payload of a follower event for *event*, which belongs to *message_id*."""
    payload = {
        "message_id": message_id,
        "gen": event.gen,
        "seq": event.seq,
        "serial": event.serial,
        "part": event.part,
        "text": "" if event.kind == "void" else event.text,
        "tool_call_id": event.tool_call_id,
        "name": event.name,
        "status": event.status,
        "error": event.error,
        "prompt_id": event.prompt_id,
        "replay_of": event.replay_of,
        "unreadable": event.unreadable or None,
    }
    if (value_key := _VALUE_KEYS.get(event.kind)) is not None:
        payload[value_key] = event.value
    always = ("message_id", "gen", "seq", "serial")
    return {key: value for key, value in payload.items() if value is not None or key in always}


_VALUE_KEYS = {"tool_call": "args", "tool_result": "result", "stop": "usage", "repair": "parts"}
"""The key under which a payload carries the event's ``value``, by kind."""


class EventBuffer:
    """The events of one conversation for its followers, in order.

    Attributes:
        number: the position of the newest event.
        first: a follower whose cursor is at `first` or later can continue without a snapshot.
    """

    def __init__(self) -> None:
        self._token = secrets.token_hex(4)
        self._events: deque[FollowEvent] = deque()
        self._bytes = 0
        self._snapshots: BoundedCache[int, FollowEvent] = BoundedCache(_MAX_SNAPSHOTS)
        self.number = 0
        self.first = 0

    def append(
        self,
        kind: str,
        event: Event | None = None,
        message_id: str | None = None,
        replay_from: int | None = None,
    ) -> None:
        """Append an event for every follower, and drop the oldest beyond the limits."""
        self.number += 1
        appended = FollowEvent(
            kind,
            self.number,
            self._id(self.number),
            event=event,
            message_id=message_id,
            replay_from=replay_from,
        )
        self._events.append(appended)
        self._bytes += appended.size_bytes
        while len(self._events) > MAX_EVENTS or self._bytes > MAX_BYTES:
            oldest = self._events.popleft()
            self._bytes -= oldest.size_bytes
            self.first = oldest.number

    def since(self, number: int) -> list[FollowEvent]:
        """Return the events after position *number*, which must be at or after ``first``."""
        count = self.number - number
        events = self._events
        if count == 1:
            return [events[-1]]
        return [events[index] for index in range(len(events) - count, len(events))]

    def restart(self) -> None:
        """Make every follower start from a new snapshot.

        The events before this point do not lead to the state that is current now.
        """
        self.number += 1
        self.first = self.number
        self._events.clear()
        self._snapshots.clear()
        self._bytes = 0

    def snapshot(self, limit: int, answer: Callable[[int], bytes]) -> FollowEvent:
        """Return a snapshot for a new follower: a cached one if it is recent enough.

        Args:
            limit: how many finished messages, the newest.
            answer: renders the current state with that many finished messages.
        """
        cached = self._snapshots.get(limit)
        if cached is None or cached.number < max(self.first, self.number - _SNAPSHOT_REUSE):
            id_ = self._id(self.number)
            cached = FollowEvent("snapshot", self.number, id_, body=answer(limit))
            self._snapshots[limit] = cached
        return cached

    def drop_snapshots(self) -> None:
        """Free the cached snapshots: no follower is connected."""
        self._snapshots.clear()

    def number_of(self, id_: str) -> int | None:
        """Return the position that *id_* names; None if a reader cannot resume from it."""
        token, _, digits = id_.partition("-")
        if token != self._token or not (digits.isascii() and digits.isdigit()):
            return None
        number = int(digits) if len(digits) <= _MAX_NUMBER_DIGITS else -1
        return number if self.first <= number <= self.number else None

    def _id(self, number: int) -> str:
        return f"{self._token}-{number}"


def event_bytes(event: Event) -> int:
    """Return about how much memory *event* takes: its text, and its value as JSON."""
    size = _EVENT_BYTES
    if event.text is not None:
        size += sys.getsizeof(event.text)
    if event.value is not None:
        size += len(dump(event.value))
    return size
