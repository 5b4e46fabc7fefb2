"""The content of a response, as runs of consecutive events.

A *run* holds the content of the seqs ``first`` … ``last`` without a gap, as *segments*: text of one
part, or a step of one tool call. Runs are apart exactly where seqs are missing, so a late event
finds its place between them. `assembly` puts the parts together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import TEXTUAL, Event
from rehydrate.core.replay.timings import Timing, Timings
from rehydrate.core.text.parts import call_status

if TYPE_CHECKING:
    from collections.abc import Iterator

_PART_TYPES = {"token": "text", "refusal": "refusal", "reasoning": "reasoning"}

NO_SEQ = -1
"""``first`` of a run whose events carried no seq."""


class Segment(NamedTuple):
    """A step of one part.

    Attributes:
        type: ``text``, ``refusal`` or ``reasoning`` with text as ``fragments``, or ``tool_call``,
            ``tool_args`` or ``tool_result``.
        key: the part header, or the id of the call.
        fragments: the text, as it was published.
        value: of a tool call: name and arguments, or name and result.
    """

    type: str
    key: str | None
    fragments: list[str]
    value: Any = None


class Run:
    """The content of consecutive events. Mutable: a stream appends to its last run.

    A ``collapsed`` run came as one text: a repair, or a finished message read back from its wire
    form. Its timings do not count seqs, and it cannot be cut.
    """

    __slots__ = ("collapsed", "first", "last", "segments", "timings")

    def __init__(
        self,
        first: int,
        last: int,
        segments: list[Segment],
        timings: Timings,
        *,
        collapsed: bool = False,
    ) -> None:
        self.first = first
        self.last = last
        self.segments = segments
        self.timings = timings
        self.collapsed = collapsed

    def append(self, event: Event) -> None:
        """Add *event* as the next of this run."""
        self.timings.append(Timing(_extend(self.segments, event), event.timestamp_ms))
        self.last = NO_SEQ if event.seq is None else event.seq

    def append_segment(self, segment: Segment, at_ms: int) -> None:
        """Add *segment* behind the others; it has no seq."""
        self.timings.entries.append(Timing(_length(segment), at_ms))
        _put(self.segments, segment)

    def join(self, other: Run) -> None:
        """Add the whole of *other*, which begins right after this run's last seq."""
        for segment in other.segments:
            _put(self.segments, segment)
        self.timings.entries.extend(other.timings.entries)
        self.last = other.last

    def after(self, seq: int) -> Run | None:
        """Return the part of this run after *seq*; None if there is none, or it cannot be cut."""
        if self.first > seq:
            return self
        if self.last <= seq or self.collapsed:
            return None
        entries = self.timings.entries
        drop = seq - self.first + 1
        rest = Run(seq + 1, self.last, [], Timings(entries[drop:]))
        skip = sum(timing.length for timing in entries[:drop])
        for segment in self.segments:
            skip = _cut(rest.segments, segment, skip)
        return rest


def run_of(event: Event) -> Run:
    """Return a run of *event* alone."""
    first = NO_SEQ if event.seq is None else event.seq
    run = Run(first, first, [], Timings())
    run.append(event)
    return run


def collapsed_run(first: int, last: int, parts: list[dict[str, Any]], at_ms: int) -> Run:
    """Return a run for ``first`` … ``last`` whose content is known only as *parts*."""
    segments = list(_segments_of(parts))
    length = sum(map(_length, segments))
    return Run(first, last, segments, Timings([Timing(length, at_ms)]), collapsed=True)


def _segments_of(parts: list[dict[str, Any]]) -> Iterator[Segment]:
    for index, part in enumerate(parts):
        if part["type"] == "tool_call":
            call_id = part.get("tool_call_id") or f"call-{index}"
            args = part.get("args", "")
            value = {"name": part.get("name"), "args": args, "status": call_status(part)}
            yield Segment("tool_call", call_id, [], value)
            if part.get("result") is not None:
                yield result_segment(call_id, None, part["result"], part.get("status"))
        elif (
            part["text"] or "gaps" in part
        ):  # empty text is kept where a gap lies: it holds the place
            yield Segment(part["type"], part.get("part"), [part["text"]])


def result_segment(
    call_id: str | None, name: str | None, result: Any, status: str | None
) -> Segment:
    """Return the step that ends a tool call; of the statuses only ``failed`` is stored."""
    failed = {"status": status} if status == "failed" else {}
    return Segment("tool_result", call_id, [], {"name": name, "result": result, **failed})


def _extend(segments: list[Segment], event: Event) -> int:
    """Add the content of *event*; return its length in characters.

    Empty text adds nothing: it would be unclear on which side of a cut it lies.
    """
    text = event.text or ""
    if event.kind in TEXTUAL and text:
        last = segments[-1] if segments else None
        type_ = _PART_TYPES[event.kind]
        if last is not None and last.type == type_ and last.key == event.part:
            last.fragments.append(text)
        else:
            segments.append(Segment(type_, event.part, [text]))
        return len(text)
    if event.kind == "tool_args" and text:
        _put(segments, Segment("tool_args", event.tool_call_id, [text]))
        return len(text)
    if event.kind == "tool_call":
        value = {"name": event.name, "args": event.value}
        segments.append(Segment("tool_call", event.tool_call_id, [], value))
        return 1
    if event.kind == "tool_result":
        result = result_segment(event.tool_call_id, event.name, event.value, event.status)
        segments.append(result)
        return 1
    return 0


def _put(segments: list[Segment], segment: Segment) -> None:
    last = segments[-1] if segments else None
    if last is not None and segment.fragments and (last.type, last.key) == segment[:2]:
        last.fragments.extend(segment.fragments)
    else:
        segments.append(Segment(segment.type, segment.key, list(segment.fragments), segment.value))


def _length(segment: Segment) -> int:
    return sum(map(len, segment.fragments)) if segment.value is None else 1


def _cut(into: list[Segment], segment: Segment, skip: int) -> int:
    """Add what remains of *segment* after *skip* characters; return how many are left to skip."""
    length = _length(segment)
    if skip >= length:
        return skip - length
    if skip and segment.value is None:
        segment = Segment(segment.type, segment.key, ["".join(segment.fragments)[skip:]])
        skip = 0
    _put(into, segment)
    return skip
