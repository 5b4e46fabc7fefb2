"""Which events are dropped whatever the messages contain: of erased messages, and of other clients.

A service that restricts who may publish responses, and a conversation that was erased, must look the
same to a recorder, a follower and a reader of the channel. So the answer carries these rules, and
all three apply them here (docs/protocol.md section 9.1).

An erased event proves that its whole message is erased. The time of the erasure alone would let the
rest of a response pass which was streaming meanwhile: a recorder would store its end as a
message, and a reader, who lacks its beginning, would hydrate again and again. So the ids are kept of
messages of which an erased event came. A reader that joins later receives the rest only; a component
that reads history has recognised it by the tombstone, and names it in the answer.

Events of an anonymous stream name no message, so the place tells which are the rest of an erased
one: all from the erasure on, to its `stop`, or to the next `start`. They are folded again within the
margin, and by every reader, after the end was seen; so the place of the last one is kept as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.fold import Outcome
from rehydrate.core.positions import insertion_position
from rehydrate.core.window import ErasedStream, Tombstone, erased_mark

if TYPE_CHECKING:
    from collections.abc import Container

    from rehydrate.core.event import Event

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
    """Decides which events are dropped, and keeps the ids of the erased messages that it met.

    Args:
        agents: the clientIds that may publish responses; empty: any.
        tombstone: what was erased.

    Attributes:
        erased: messages of which erased events came, and answers to erased prompts.
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
            known: the ids of the messages that there are since the erasure.
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
