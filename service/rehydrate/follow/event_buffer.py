"""What followers are told: each thing made once, in order, for as long as it is bounded."""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from rehydrate.core.json import dump

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.core.event import Event

MOST_TOLD = 2_000
"""How many events a follower may be behind before it gets a new snapshot."""

MOST_TOLD_CHARACTERS = 2_000_000
"""Likewise, in characters of text."""

_SNAPSHOTS_KEPT = 2
_FRESH = 500
"""A snapshot is shown to joiners with up to so many events behind it, before it is made anew."""

_LONGEST_PLACE = 18


class FollowEvent:
    """One thing that a follower is told.

    Attributes:
        kind: ``snapshot``; ``prompt``; ``start``, ``token``, ``refusal``, ``reasoning``,
            ``tool_call``, ``tool_args``, ``tool_result``, ``repair`` or ``stop`` of a response;
            ``again``: messages may have been missed, and a new snapshot will come.
        number: its place among what is told.
        id: an opaque name of the place, with which a reader goes on after it.
        event: what was said on the channel, if that is what it tells of.
        message_id: which message it belongs to.
        replay_from: of a replay, the place of its start.
        frame: for whoever sends it on: what it looks like there, kept so that it is made once.
    """

    __slots__ = ("_body", "event", "frame", "id", "kind", "message_id", "number", "replay_from")

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
        self._body = body

    @property
    def body(self) -> bytes:
        """What it says, as JSON: of a snapshot the answer of a hydrate."""
        if self._body is None:
            said = {} if self.event is None else _said(self.event, self.message_id)
            self._body = dump(said)
        return self._body

    @property
    def data(self) -> dict[str, Any]:
        """What it says, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


def _said(event: Event, message_id: str | None) -> dict[str, Any]:
    said = {
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
    }
    if (says := _VALUES.get(event.kind)) is not None:
        said[says] = event.value
    always = ("message_id", "gen", "seq", "serial")
    return {key: value for key, value in said.items() if value is not None or key in always}


_VALUES = {"tool_call": "args", "tool_result": "result", "stop": "usage", "repair": "parts"}
"""What an event's value is called where it is told."""


class EventBuffer:
    """What the followers of one conversation are told, in order.

    Attributes:
        number: the place of the newest.
        first: whoever was told all up to here, or further, need not begin with a snapshot.
    """

    def __init__(self) -> None:
        self._token = secrets.token_hex(4)
        self._told: deque[FollowEvent] = deque()
        self._characters = 0
        self._snapshots: OrderedDict[int, FollowEvent] = OrderedDict()
        self.number = 0
        self.first = 0

    def tell(
        self,
        kind: str,
        event: Event | None = None,
        message_id: str | None = None,
        replay_from: int | None = None,
    ) -> None:
        """Tell it to everybody."""
        self.number += 1
        told = FollowEvent(
            kind,
            self.number,
            self._id(self.number),
            event=event,
            message_id=message_id,
            replay_from=replay_from,
        )
        self._told.append(told)
        self._characters += _length(told)
        while len(self._told) > MOST_TOLD or self._characters > MOST_TOLD_CHARACTERS:
            oldest = self._told.popleft()
            self._characters -= _length(oldest)
            self.first = oldest.number

    def since(self, number: int) -> list[FollowEvent]:
        """What was told after *number*, which lies at or behind ``first``."""
        count = self.number - number
        told = self._told
        if count == 1:
            return [told[-1]]
        return [told[index] for index in range(len(told) - count, len(told))]

    def begin_anew(self) -> None:
        """Everybody needs a new snapshot: what was told before does not lead to what stands now."""
        self.number += 1
        self.first = self.number
        self._told.clear()
        self._snapshots.clear()
        self._characters = 0

    def snapshot(self, limit: int, answer: Callable[[int], bytes]) -> FollowEvent:
        """A snapshot for somebody who joins: one that was made before, if it is young enough.

        *answer* makes one of what stands now, with so many finished messages.
        """
        kept = self._snapshots.get(limit)
        if kept is None or kept.number < max(self.first, self.number - _FRESH):
            place = self._id(self.number)
            kept = FollowEvent("snapshot", self.number, place, body=answer(limit))
            self._snapshots[limit] = kept
            self._snapshots.move_to_end(limit)
            if len(self._snapshots) > _SNAPSHOTS_KEPT:
                self._snapshots.popitem(last=False)
        return kept

    def forget_snapshots(self) -> None:
        """Nobody joins any more, as far as one can see."""
        self._snapshots.clear()

    def number_of(self, id_: str) -> int | None:
        """The place that *id_* names; None if it is none of these that can be gone on from."""
        token, _, place = id_.partition("-")
        if token != self._token or not (place.isascii() and place.isdigit()):
            return None
        number = int(place) if len(place) <= _LONGEST_PLACE else -1
        return number if self.first <= number <= self.number else None

    def _id(self, number: int) -> str:
        return f"{self._token}-{number}"


def _length(told: FollowEvent) -> int:
    event = told.event
    return 0 if event is None or event.text is None else len(event.text)
