"""The content of a response: runs of consecutive events, with their timings, parts and size.

A *run* holds the content of the seqs ``first`` … ``last`` without a gap, as *segments*: text of one
part, or a step of one tool call. Runs are apart exactly where seqs are missing, so a late event
finds its place between them. `assembly` puts the parts together. *Timings*, the length and time of
each event, lie beside the text for replays; packed they take about two bytes an event.

The size of a response is limited, for every publisher. Our own publishers get an error at the
limit. Of other publishers the event is not folded: the response ends there as ``incomplete`` with
the error `TOO_LARGE`, and keeps what it has.
"""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import SETTLED, TEXTUAL, Event
from rehydrate.core.json import dump, is_json
from rehydrate.errors import TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rehydrate.core.event import CallStatus


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

    def edited(self, index: int, event: Event) -> Run:
        """Return this run with the content of *event* in place of the content of its event *index*."""
        entries = list(self.timings.entries)
        skip, length = sum(timing.length for timing in entries[:index]), entries[index].length
        made = Run(self.first, self.last, [], Timings(entries))
        left = skip
        for segment in self.segments:
            left = _take(made.segments, segment, left)
        entries[index] = Timing(_extend(made.segments, event), entries[index].at_ms)
        skip += length
        for segment in self.segments:
            skip = _cut(made.segments, segment, skip)
        return made

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


def _take(into: list[Segment], segment: Segment, left: int) -> int:
    """Add the first *left* characters of *segment*; return how many are left to take."""
    if not left:
        return 0
    length = _length(segment)
    if left < length:
        fragments = ["".join(segment.fragments)[:left]]
        segment = Segment(segment.type, segment.key, fragments)
    _put(into, segment)
    return max(0, left - length)


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


_PLAIN = b"\x00"
_DEFLATED = b"\x01"
_WORTH_DEFLATING_BYTES = 256


class Timing(NamedTuple):
    """One event: its length in characters (0: no text), and its time in ms since 1970."""

    length: int
    at_ms: int


class Timings:
    """The timings of consecutive events: those that were stored, in packed parts, and those since.

    The parts are unpacked on first access. Appending and counting unpack nothing: otherwise a write
    would cost more the longer a response has become.

    Args:
        entries: timings that were never stored.
        parts: packed timings that were stored and precede *entries*.
    """

    __slots__ = ("_entries", "_parts", "_stored")

    def __init__(
        self, entries: list[Timing] | None = None, parts: list[bytes] | None = None
    ) -> None:
        self._parts = parts
        self._entries = [] if entries is None else entries
        self._stored = 0

    @property
    def entries(self) -> list[Timing]:
        """All timings, to which the caller may append."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            stored = [timing for part in parts for timing in _unpack(part)]
            self._stored = len(stored)
            self._entries = stored + self._entries
        return self._entries

    @property
    def appended(self) -> list[Timing]:
        """The timings since the parts were stored."""
        return self._entries[self._stored :] if self._stored else self._entries

    @property
    def unpacked(self) -> bool:
        """True once the parts have been unpacked."""
        return self._parts is None

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries) + sum(map(_count, self._parts or ()))

    def append(self, timing: Timing) -> None:
        """Add *timing* behind the others."""
        self._entries.append(timing)

    def packed(self) -> bytes:
        """Return the compact form: a tag, then lengths and time differences; empty for none."""
        if self._parts is not None and len(self._parts) == 1 and not self._entries:
            return self._parts[0]
        return _pack(self.entries)


def _pack(entries: list[Timing]) -> bytes:
    if not entries:
        return b""
    lengths = [timing.length for timing in entries]
    distances = [b.at_ms - a.at_ms for a, b in pairwise(entries)]
    plain = json.dumps([entries[0].at_ms, lengths, distances], separators=(",", ":")).encode()
    if len(plain) < _WORTH_DEFLATING_BYTES:
        return _PLAIN + plain
    return _DEFLATED + zlib.compress(plain)


def _count(packed: bytes) -> int:
    """Count packed timings: they are twice as many numbers, separated by commas."""
    return (_body(packed).count(b",") + 1) // 2 if packed else 0


def _body(packed: bytes) -> bytes:
    return zlib.decompress(packed[1:]) if packed[:1] == _DEFLATED else packed[1:]


def _unpack(packed: bytes) -> list[Timing]:
    if not packed:
        return []
    at_ms, lengths, distances = json.loads(_body(packed))
    entries = []
    for length, distance in zip(lengths, [0, *distances], strict=True):
        at_ms += distance
        entries.append(Timing(length, at_ms))
    return entries


_TEXT_TYPES = frozenset({"text", "refusal", "reasoning"})
PART_TYPES = _TEXT_TYPES | {"tool_call"}
"""The types of parts."""


def clean_parts(parts: Any) -> list[dict[str, Any]] | None:
    """Return *parts* with only the keys of the wire form; None if it is not a list of parts."""
    if not isinstance(parts, list) or not parts:
        return None
    cleaned = [_clean(part) for part in parts]
    return None if any(part is None for part in cleaned) else [part for part in cleaned if part]


def call_status(part: Mapping[str, Any]) -> CallStatus:
    """Return the status of the tool call *part*; without a result it is in progress."""
    status = part.get("status")
    return status if isinstance(status, str) and status in SETTLED else "in_progress"  # type: ignore[return-value] # as tested


def _clean(part: Any) -> dict[str, Any] | None:
    if not isinstance(part, dict):
        return None
    if not (isinstance(part.get("type"), str) and is_json(part)):
        return None
    if part["type"] in _TEXT_TYPES and isinstance(part.get("text"), str):
        cleaned = {"type": part["type"], "text": part["text"]}
        if isinstance(part.get("part"), str):
            cleaned["part"] = part["part"]
        return cleaned
    if part["type"] == "tool_call" and isinstance(part.get("tool_call_id"), str):
        name = part.get("name")
        return {
            "type": "tool_call",
            "tool_call_id": part["tool_call_id"],
            "name": name if isinstance(name, str) else None,
            "args": part.get("args", ""),
            "result": part.get("result"),
            "status": call_status(part),
        }
    return None


MAX_CHARACTERS = 10 * 1024 * 1024
"""Of its text, its reasoning, and the JSON of its tool calls together."""

MAX_EVENTS = 1_000_000
MAX_SEQ = 2 * MAX_EVENTS
"""A seq beyond it is not a place in a response; the message is not an event."""

MAX_GEN = MAX_SEQ
"""A larger gen is not valid on the channel: every reader ignores the message."""

MAX_STEPS = 100_000
"""How often a response may change from one part to another, which bounds its parts."""

VALUE_BYTES = 56_000
"""Of tool arguments or a result, as JSON in UTF-8. With its headers it has to fit a channel
message of the smallest size (64 KiB).
"""

END_BYTES = 16_000
"""Of a usage, and of an error, as JSON: a stop has to fit a channel message."""

LABEL_CHARACTERS = 256
"""Of the name of a part, of a tool, or of a call."""

FOLDED_CHARACTERS = MAX_CHARACTERS + MAX_CHARACTERS // 20
FOLDED_EVENTS = MAX_EVENTS + MAX_EVENTS // 20
FOLDED_STEPS = MAX_STEPS + MAX_STEPS // 20
"""The fold accepts a little more than our publishers may send, so that it never cuts a response
of theirs.
"""

TOO_LARGE = {"code": "too_large", "message": "the response is larger than one may be"}


class SizeBudget:
    """How much a response holds. The count may be too high, and never too low."""

    __slots__ = ("characters", "events", "steps")

    def __init__(self, characters: int = 0, events: int = 0, steps: int = 0) -> None:
        self.characters = characters
        self.events = events
        self.steps = steps

    def reserve(self, characters: int) -> bool:
        """Count an event of *characters*; return False if there is no room for it."""
        total = self.characters + characters
        if total > FOLDED_CHARACTERS or self.events >= FOLDED_EVENTS or self.steps >= FOLDED_STEPS:
            return False
        self.characters = total
        self.events += 1
        return True


def measured(runs: Iterable[Run]) -> SizeBudget:
    """Return the size of *runs*."""
    found = SizeBudget()
    for run in runs:
        found.characters += sum(map(_counted, run.segments))
        found.steps += len(run.segments)
        numbered = run.first >= 0 and not run.collapsed
        found.events += run.last - run.first + 1 if numbered else len(run.timings)
    return found


def check_parts(parts: Sequence[Mapping[str, Any]]) -> None:
    """Return if a message may consist of *parts*.

    Raises:
        TooLarge: they are too many, or too long.
    """
    characters = 0
    for part in parts:
        characters += len(part.get("text") or "") + len(part.get("part") or "")
        for key in ("name", "args", "result"):
            characters += value_length(None, part.get(key))
    if len(parts) > MAX_STEPS or characters > MAX_CHARACTERS:
        raise TooLarge(
            f"the parts are {len(parts)}, of {characters} characters; "
            f"at most {MAX_STEPS} and {MAX_CHARACTERS} are allowed"
        )


def adds(event: Event) -> int:
    """Return how many characters *event* adds at most."""
    length = len(event.text) if event.text else 0
    if event.part is None and event.tool_call_id is None and event.version is None:
        return length  # nearly always
    if event.part is not None:
        length += len(event.part)
    if event.version is not None:  # its serial names its parts, and its arguments are a second step
        length += len(event.serial or "") + len(event.tool_call_id or "")
    if event.tool_call_id is not None:
        length += len(event.tool_call_id) + value_length(event.name, event.value)
    return length


def value_length(name: str | None, value: object) -> int:
    """Return how many characters a whole tool call or result counts."""
    return len(name or "") + (0 if value is None else len(dump(value)))


def _counted(segment: Segment) -> int:
    length = sum(map(len, segment.fragments)) + len(segment.key or "")
    if segment.value is not None:
        value = segment.value
        length += value_length(value.get("name"), value.get("args", value.get("result")))
    return length
