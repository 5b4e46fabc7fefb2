"""Chunks: a stored response split again into the events that it came in, each with its time.

Where a run has a timing for every event, the chunks are the events as they were. Content that came
as one text (a repair, an imported message) has no such times: it is cut into chunks about as long
as a token, which a replay spaces evenly.

*Spans* are the chunks by source, for the inspector. The stored message and the same message with
later events folded in are compared chunk by chunk: what the first contains came from the database,
the rest from history since. Live messages come later, and only their reader knows of them.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rehydrate.core.event import SETTLED, Kind, Status
from rehydrate.core.text.content import NO_SEQ, Run, Segment, result_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.core.message import MessageState
    from rehydrate.core.text.content import Timing


_KINDS: dict[str, Kind] = {"text": "token", "refusal": "refusal", "reasoning": "reasoning"}
_WORD = re.compile(r"\s*\S{1,12}|\s+")


class Chunk(NamedTuple):
    """The content of one event.

    Attributes:
        at_ms: its time, in ms since 1970; None if it is not recorded.
        seq: its own seq where it had one, else a count that continues the one before.
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

    def continues(self, other: Chunk) -> bool:
        """Return True if this chunk may share one event with *other*, which came right before."""
        mine = (self.kind, self.part, self.tool_call_id)
        return self.text is not None and mine == (other.kind, other.part, other.tool_call_id)


def chunks_of(state: MessageState) -> list[Chunk]:
    """Return the chunks of all content of *state*, in order; their times never decrease."""
    runs = [*state.runs, *([state.tail] if state.tail is not None else [])]
    found: list[Chunk] = []
    for run in runs:
        first = found[-1].seq + 1 if run.first == NO_SEQ and found else max(run.first, 1)
        found.extend(_chunks(run, first))
    for message in sorted(_chunks_of_versioned(state, found), key=lambda chunk: chunk.at_ms or 0):
        found.append(message._replace(seq=found[-1].seq + 1 if found else 1))
    return _in_time(found)


def _chunks_of_versioned(state: MessageState, before: list[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of versioned messages, which grew in parallel.

    No message begins before the one before it.
    """
    least_ms = max((chunk.at_ms or 0 for chunk in before), default=0)
    for message in state.visible_versioned():
        begun = False
        for chunk in _chunks(message.run, 1):
            at_ms = max(chunk.at_ms or 0, least_ms)
            if not begun:
                begun, least_ms = True, at_ms
            yield chunk._replace(at_ms=at_ms)


def _in_time(chunks: list[Chunk]) -> list[Chunk]:
    timed, last_ms = [], 0
    for chunk in chunks:
        if chunk.at_ms is None:
            timed.append(chunk)
            continue
        last_ms = max(last_ms, chunk.at_ms)
        timed.append(chunk._replace(at_ms=last_ms))
    return timed


def _chunks(run: Run, first: int) -> Iterator[Chunk]:
    if run.collapsed:
        yield from _cut_evenly(run.segments, first, run.last)
        return
    segments = _SegmentReader(run.segments)
    numbered = run.first >= 0
    for index, timing in enumerate(run.timings.entries):
        for chunk in segments.read(timing.length):
            yield chunk._replace(at_ms=timing.at_ms, seq=run.first + index if numbered else first)
            first += 1


class _SegmentReader:
    """A position in segments, from which text is read chunk by chunk."""

    def __init__(self, segments: list[Segment]) -> None:
        self._left = [(segment, "".join(segment.fragments)) for segment in reversed(segments)]
        self._at = 0

    def read(self, length: int) -> Iterator[Chunk]:
        """Yield the next *length* characters; a step of a tool call counts as one."""
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
            yield _text_chunk(segment, taken)


def _cut_evenly(segments: list[Segment], first: int, last: int) -> Iterator[Chunk]:
    """Yield chunks about as long as tokens, numbered within ``first`` … ``last`` if known."""
    cut: list[Chunk] = []
    results: dict[str | None, Any] = {}
    for index, segment in enumerate(segments):
        if segment.value is None:
            text = "".join(segment.fragments)
            cut.extend(_text_chunk(segment, word) for word in _WORD.findall(text))
            continue
        cut.append(_step(segment))
        if segment.type == "tool_result":
            results[segment.key] = segment.value["result"]
        elif segment.value.get("status") in SETTLED:
            next_type = segments[index + 1].type if index + 1 < len(segments) else None
            if next_type != "tool_result":  # a call without a result, or one that came before it
                known = results.get(segment.key)
                ended = result_segment(segment.key, None, known, segment.value["status"])
                cut.append(_step(ended))
    room = last - first + 1
    for index, chunk in enumerate(cut):
        yield chunk._replace(seq=first + (index * room // len(cut) if room > 0 else index))


def _text_chunk(segment: Segment, text: str) -> Chunk:
    if segment.type == "tool_args":
        return Chunk(None, 0, "tool_args", text, tool_call_id=segment.key)
    return Chunk(None, 0, _KINDS[segment.type], text, part=segment.key)


def _step(segment: Segment) -> Chunk:
    kind: Kind = "tool_call" if segment.type == "tool_call" else "tool_result"
    value = segment.value
    if kind == "tool_call":
        return Chunk(None, 0, kind, None, None, segment.key, value["name"], value["args"])
    failed: Status | None = "failed" if value.get("status") == "failed" else None
    return Chunk(None, 0, kind, None, None, segment.key, value["name"], value["result"], failed)


Source = Literal["database", "history"]

MAX_CHUNKS = 4_000
"""With more chunks, several are joined to one."""


class Span(NamedTuple):
    """Consecutive chunks from one source.

    Attributes:
        first, last: their seqs; None where they had none.
        timings: the length, in characters, and the time of each chunk.
        is_whole: the content came, or was stored, as one text.
    """

    source: Source
    first: int | None
    last: int | None
    timings: list[Timing]
    is_whole: bool = False


def spans(stored: MessageState | None, now: MessageState) -> list[Span]:
    """Return the chunks of *now* by source; *stored* is the message as the store had it."""
    if stored is None or stored.gen != now.gen:
        stored = None
    found = [each for run in now.runs for each in _numbered(stored, now, run)]
    if now.tail is not None:
        had = 0 if stored is None or stored.tail is None else len(stored.tail.timings.entries)
        found += _unnumbered(now.tail, had)
    for message in now.visible_versioned():
        before = stored.versioned.get(message.serial) if stored is not None else None
        found += _unnumbered(message.run, 0 if before is None else len(before.run.timings.entries))
    return found


def joined(found: list[Span]) -> tuple[list[Span], int]:
    """Return *found* with at most about `MAX_CHUNKS` chunks, and how many were joined to one."""
    factor = -(-sum(len(each.timings) for each in found) // MAX_CHUNKS) or 1
    if factor == 1:
        return found, 1
    return [
        each._replace(timings=list(_joined_timings(each.timings, factor))) for each in found
    ], factor


def _joined_timings(timings: list[Timing], factor: int) -> Iterator[Timing]:
    for at in range(0, len(timings), factor):
        some = timings[at : at + factor]
        yield some[-1]._replace(length=sum(timing.length for timing in some))


def _numbered(stored: MessageState | None, now: MessageState, run: Run) -> Iterator[Span]:
    if run.collapsed:
        known = stored is not None and stored.covered == now.covered and stored.contains(run.last)
        timings, source = run.timings.entries, _source(is_known=known)
        yield Span(source, max(run.first, 0), run.last, timings, is_whole=True)
        return
    chunks = enumerate(run.timings.entries, run.first)
    by_source = groupby(chunks, lambda chunk: stored is not None and stored.contains(chunk[0]))
    for known, group in by_source:
        some = list(group)
        timings = [timing for _, timing in some]
        yield Span(_source(is_known=known), some[0][0], some[-1][0], timings)


def _unnumbered(run: Run, had: int) -> Iterator[Span]:
    timings = run.timings.entries
    for source, some in (("database", timings[:had]), ("history", timings[had:])):
        if some:
            yield Span(_source(is_known=source == "database"), None, None, some)


def _source(*, is_known: bool) -> Source:
    return "database" if is_known else "history"
