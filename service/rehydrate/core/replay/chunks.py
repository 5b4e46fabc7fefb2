"""A stored response taken apart again: the pieces it came in, each with its time.

Where a run's tape has a tick for every event, the pieces are the events as they were. What came as
one text (a repair, a message that was stored whole) has no such times: it is cut into pieces about
as long as a token is, and whoever replays it spreads them evenly.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import SETTLED, Kind, Status
from rehydrate.core.text.content import NO_SEQ, Run, Segment, result_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.core.message import MessageState

_KINDS: dict[str, Kind] = {"text": "token", "refusal": "refusal", "reasoning": "reasoning"}
_WORD = re.compile(r"\s*\S{1,12}|\s+")


class Chunk(NamedTuple):
    """What one event said.

    ``at_ms``: when; None where that is not recorded. ``seq``: where in the response it lies: its
    own seq where there was one, else a count that goes on from what came before.
    """

    at_ms: int | None
    seq: int
    kind: Kind
    text: str | None = None
    part: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    value: Any = None
    status: Status | None = None

    @property
    def length(self) -> int:
        """In characters; 0 for a step of a tool call without text."""
        return len(self.text or "")

    def goes_on(self, other: Chunk) -> bool:
        """Whether this piece may be said in one event with *other*, which came right before."""
        mine = (self.kind, self.part, self.tool_call_id)
        return self.text is not None and mine == (other.kind, other.part, other.tool_call_id)


def pieces_of(state: MessageState) -> list[Chunk]:
    """The pieces of all that *state* says, in order; their times never go back."""
    runs = [*state.runs, *([state.tail] if state.tail is not None else [])]
    found: list[Chunk] = []
    for run in runs:
        first = found[-1].seq + 1 if run.first == NO_SEQ and found else max(run.first, 1)
        found.extend(_pieces(run, first))
    for cell in sorted(_pieces_of_cells(state, found), key=lambda piece: piece.at_ms or 0):
        found.append(cell._replace(seq=found[-1].seq + 1 if found else 1))
    return _in_time(found)


def _pieces_of_cells(state: MessageState, before: list[Chunk]) -> Iterator[Chunk]:
    """Those of channel messages that grew side by side; none begins before the one before it."""
    least_ms = max((piece.at_ms or 0 for piece in before), default=0)
    for cell in state.visible_cells():
        begun = False
        for piece in _pieces(cell.run, 1):
            at_ms = max(piece.at_ms or 0, least_ms)
            if not begun:
                begun, least_ms = True, at_ms
            yield piece._replace(at_ms=at_ms)


def _in_time(pieces: list[Chunk]) -> list[Chunk]:
    timed, last_ms = [], 0
    for piece in pieces:
        if piece.at_ms is None:
            timed.append(piece)
            continue
        last_ms = max(last_ms, piece.at_ms)
        timed.append(piece._replace(at_ms=last_ms))
    return timed


def _pieces(run: Run, first: int) -> Iterator[Chunk]:
    if run.collapsed:
        yield from _cut_evenly(run.segments, first, run.last)
        return
    segments = _Taken(run.segments)
    numbered = run.first >= 0
    for index, tick in enumerate(run.tape.ticks):
        for said in segments.take(tick.length):
            yield said._replace(at_ms=tick.at_ms, seq=run.first + index if numbered else first)
            first += 1


class _Taken:
    """Segments that are taken piece by piece."""

    def __init__(self, segments: list[Segment]) -> None:
        self._left = [(segment, "".join(segment.pieces)) for segment in reversed(segments)]
        self._at = 0

    def take(self, length: int) -> Iterator[Chunk]:
        """The next *length* characters, of however many segments; a step of a call counts as one."""
        while length > 0 and self._left:
            segment, text = self._left[-1]
            if segment.value is not None:
                self._left.pop()
                length -= 1
                yield _step(segment)
                continue
            taken = text[self._at : self._at + length]
            self._at += len(taken)
            length -= len(taken)
            if self._at >= len(text):
                self._left.pop()
                self._at = 0
            yield _said(segment, taken)


def _cut_evenly(segments: list[Segment], first: int, last: int) -> Iterator[Chunk]:
    """Pieces about as long as tokens, numbered within ``first`` … ``last`` where that is known."""
    cut: list[Chunk] = []
    for index, segment in enumerate(segments):
        if segment.value is None:
            text = "".join(segment.pieces)
            cut.extend(_said(segment, word) for word in _WORD.findall(text))
            continue
        cut.append(_step(segment))
        follows = index + 1 < len(segments) and segments[index + 1].type == "tool_result"
        if segment.value.get("status") in SETTLED and not follows:  # its result is null
            cut.append(_step(result_segment(segment.key, None, None, segment.value["status"])))
    room = last - first + 1
    for index, piece in enumerate(cut):
        yield piece._replace(seq=first + (index * room // len(cut) if room > 0 else index))


def _said(segment: Segment, text: str) -> Chunk:
    if segment.type == "tool_args":
        return Chunk(None, 0, "tool_args", text, tool_call_id=segment.key)
    return Chunk(None, 0, _KINDS[segment.type], text, part=segment.key)


def _step(segment: Segment) -> Chunk:
    kind: Kind = "tool_call" if segment.type == "tool_call" else "tool_result"
    said = segment.value
    if kind == "tool_call":
        return Chunk(None, 0, kind, None, None, segment.key, said["name"], said["args"])
    failed: Status | None = "failed" if said.get("status") == "failed" else None
    return Chunk(None, 0, kind, None, None, segment.key, said["name"], said["result"], failed)
