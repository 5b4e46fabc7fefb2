"""Versioned messages: channel messages that grow, each in the greatest version seen.

A response of such a codec consists of versioned messages, in the order in which they were created.
Folding is a maximum by version, so order, repetition and overlap do not matter. A delta is never
folded: what it means depends on what its attachment received before.

*Append chains* are what one attachment received of such messages. The first delivery of a message
is all of it; every later one is what was appended since. So the chain of one attachment is whole by
itself, and only by itself. A delta fits no text from elsewhere: it may cover several appends, some
of which that text has (docs/exactness.md section 9).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import TEXTUAL, Event
from rehydrate.core.positions import serial_time_ms
from rehydrate.core.text.content import NO_SEQ, Run, Segment, Timings, measured, result_segment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehydrate.core.event import Version


MAX_VERSIONED = 1_000
"""How many versioned messages one response may consist of."""

VERSIONED_FIRST = NO_SEQ - 1
"""``first`` of the run of a message's first versioned message; each further one is one lower."""


class VersionedHeader(NamedTuple):
    """What is known of a versioned message beside its content.

    Attributes:
        serial: of the channel message.
        first: of its run, which is its number within the message.
        version: the greatest version serial that was seen.
        at_ms: when the channel message was created, in ms since 1970.
        is_last: its publisher expects no later version.
        step, attempt: it counts only until a later attempt at that step begins.
        unreadable: 1 if the content of that version cannot be read, else 0.
    """

    serial: str
    first: int
    version: str
    at_ms: int
    is_last: bool = False
    step: str | None = None
    attempt: str | None = None
    unreadable: int = 0


class VersionedMessage:
    """One channel message of a response in the greatest version seen; ``run`` is its content."""

    __slots__ = ("header", "run")

    def __init__(self, header: VersionedHeader) -> None:
        self.header = header
        self.run = Run(header.first, header.first, [], Timings())

    @property
    def serial(self) -> str:
        """The serial of the channel message."""
        return self.header.serial

    @property
    def version(self) -> str:
        """The greatest version serial that was seen."""
        return self.header.version

    @property
    def through(self) -> dict[str, Any]:
        """Up to where it is folded, in its wire form."""
        header = self.header
        wire: dict[str, Any] = {"serial": header.serial, "version": header.version}
        if header.is_last:
            wire["last"] = True
        if header.step is not None:
            wire["step"], wire["attempt"] = header.step, header.attempt
        if header.unreadable:
            wire["unreadable"] = True
        return wire

    @property
    def shown(self) -> list[Segment]:
        """The content that a reader sees: empty text if the version cannot be read."""
        unread = self.header.unreadable and not self.run.segments
        return [Segment("text", self.serial, [""])] if unread else self.run.segments

    def apply(self, event: Event) -> None:
        """Replace the content by the version that *event* is."""
        segments = _segments(event)
        if not self._extend(segments, published_ms(event)):
            first = self.header.first
            self.run = Run(
                first, first, [], Timings()
            )  # a new run: the store writes it from its beginning
            for segment in segments:
                self.append(segment, published_ms(event))

    def _extend(self, segments: list[Segment], at_ms: int) -> bool:
        """Append the difference, if the version only appends; return False otherwise."""
        have = self.run.segments
        if not have or [s[:2] for s in have] != [s[:2] for s in segments][: len(have)]:
            return not have and not segments
        last, now = have[-1], segments[len(have) - 1]
        before, after = "".join(last.fragments), "".join(now.fragments)
        same = all(a.value == b.value for a, b in zip(have, segments, strict=False))
        if not (same and after.startswith(before)):
            return False
        if len(after) > len(before):
            self.append(Segment(now.type, now.key, [after[len(before) :]]), at_ms)
        for segment in segments[len(have) :]:
            self.append(segment, at_ms)
        return True

    def append(self, segment: Segment, at_ms: int) -> None:
        """Append *segment*."""
        self.run.append_segment(segment, at_ms)


def _segments(event: Event) -> list[Segment]:
    """Return the content of a version as steps of one part."""
    text = [event.text] if event.text else []
    if event.kind == "tool_call":
        value = {"name": event.name, "args": event.value}
        args = [Segment("tool_args", event.tool_call_id, text)] if text else []
        return [Segment("tool_call", event.tool_call_id, [], value), *args]
    if event.kind == "tool_result":
        return [result_segment(event.tool_call_id, event.name, event.value, event.status)]
    types = {"refusal": "refusal", "reasoning": "reasoning"}
    return [Segment(types.get(event.kind, "text"), event.serial, text)] if text else []


def published_ms(event: Event) -> int:
    """Return when *event* was published: of a versioned message, this version."""
    published_ms = serial_time_ms(event.version.serial) if event.version else None
    return event.timestamp_ms if published_ms is None else published_ms


def fold_version(known: dict[str, VersionedMessage], steps: dict[str, str], event: Event) -> bool:
    """Fold the version that *event* is into the messages *known*; return False if nothing changed.

    Args:
        known: the versioned messages of the response, by serial.
        steps: the latest attempt at each step.
        event: a version.
    """
    version, serial = event.version, event.serial
    if version is None or serial is None:
        return False
    is_new_attempt = _note_attempt(steps, version.step, version.attempt)
    message = known.get(serial)
    begins_attempt = event.kind == "void" and not event.unreadable
    if begins_attempt or (message is not None and version.serial <= message.version):
        return is_new_attempt
    if message is None:
        header = VersionedHeader(
            serial, VERSIONED_FIRST - len(known), version.serial, event.timestamp_ms
        )
        message = known[serial] = VersionedMessage(header)
    message.header = message.header._replace(
        version=version.serial,
        is_last=version.is_last,
        step=version.step,
        attempt=version.attempt,
        unreadable=event.unreadable,
    )
    message.apply(event)
    return True


def _note_attempt(steps: dict[str, str], step: str | None, attempt: str | None) -> bool:
    """Record an attempt at a step; return False if it, or a later one, is known."""
    if step is None or attempt is None or attempt <= steps.get(step, ""):
        return False
    steps[step] = attempt
    return True


def length_of(known: Mapping[str, VersionedMessage], event: Event) -> int:
    """Return how many characters the channel message of *event* holds already."""
    message = known.get(event.serial or "")
    return 0 if message is None else measured([message.run]).characters


def visible(
    known: Mapping[str, VersionedMessage], steps: Mapping[str, str]
) -> list[VersionedMessage]:
    """Return the messages that count, in the order of their creation."""
    messages = sorted(known.values(), key=lambda message: message.serial)
    return [
        message
        for message in messages
        if (header := message.header).step is None
        or header.attempt == steps.get(header.step, header.attempt)
    ]


def from_wire(part: Mapping[str, Any], known: int, at_ms: int) -> list[VersionedMessage]:
    """Return the versioned messages that *part* of a wire form came from, after *known* others."""
    made: list[VersionedMessage] = []
    for key in ("through", "result_through"):
        if (through := part.get(key)) is None:
            continue
        header = VersionedHeader(
            through["serial"], VERSIONED_FIRST - known - len(made), through["version"], at_ms
        )
        unreadable = int(through.get("unreadable", False))
        rest = (through.get("step"), through.get("attempt"), unreadable)
        message = VersionedMessage(VersionedHeader(*header[:4], through.get("last", False), *rest))
        for segment in _segments_of_part(part, key):
            if segment.value is not None or any(segment.fragments):
                message.append(segment, at_ms)
        made.append(message)
    return made


def _segments_of_part(part: Mapping[str, Any], key: str) -> list[Segment]:
    if part["type"] != "tool_call":
        return [Segment(part["type"], part.get("part"), [part["text"]])]
    call_id, args = part["tool_call_id"], part["args"]
    if key == "result_through":
        return [result_segment(call_id, None, part["result"], part["status"])]
    streamed = isinstance(args, str) and bool(args)
    head = Segment(
        "tool_call", call_id, [], {"name": part["name"], "args": "" if streamed else args}
    )
    return [head, Segment("tool_args", call_id, [args])] if streamed else [head]


_WITH_TEXT = TEXTUAL | {"prompt", "tool_call", "tool_args"}

MAX_CHAINS = 2_000
MAX_CHAINED_CHARACTERS = 16 * 1024 * 1024
"""Of all chains together. The least recently used chain is evicted; its next delta then needs a new
attach.
"""


class AppendChains:
    """The channel messages that one attachment received, whole, by serial."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Event] = OrderedDict()
        self._characters = 0

    def whole(self, event: Event) -> Event | None:
        """Return the whole channel message that *event* completes.

        None if *event* is a delta whose base was never delivered: only a new attach can help.
        Events of messages that do not grow are returned as they are.
        """
        version, serial = event.version, event.serial
        if version is None or serial is None:
            return event
        base = self._known.get(serial)
        if base is None or base.version is None:
            if version.is_delta:
                return None
        elif version.serial <= base.version.serial:
            return base
        else:
            event = _after(base, base.version, event, version)
        self._keep(serial, event)
        return event

    def _keep(self, serial: str, event: Event) -> None:
        before = self._known.pop(serial, None)
        self._known[serial] = event
        self._characters += _text_length(event) - (0 if before is None else _text_length(before))
        while len(self._known) > MAX_CHAINS or (
            self._characters > MAX_CHAINED_CHARACTERS and len(self._known) > 1
        ):
            _, oldest = self._known.popitem(last=False)
            self._characters -= _text_length(oldest)


def _after(base: Event, was: Version, event: Event, version: Version) -> Event:
    """Return the whole message that *event* makes of *base*.

    An append may drop the headers that name the response; then those of the base count.
    """
    text = (base.text or "") + (event.text or "") if version.is_delta else event.text or ""
    unreadable = max(base.unreadable if version.is_delta else 0, event.unreadable)
    text = "" if unreadable else text
    whole = version._replace(
        is_delta=False, step=version.step or was.step, attempt=version.attempt or was.attempt
    )
    if event.message_id is None or event.message_id == event.serial:
        made = base._replace(id=event.id, status=event.status)
    elif version.is_delta and event.kind == base.kind:
        made = event._replace(value=base.value, name=event.name or base.name)
    else:
        made = event
    return made._replace(
        text=text if made.kind in _WITH_TEXT else None, version=whole, unreadable=unreadable
    )


def _text_length(event: Event) -> int:
    return len(event.text or "")
