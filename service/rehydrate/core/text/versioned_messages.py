"""Channel messages that grow: of each one, the greatest version that was seen, whole.

A response in such a dialect is made of *messages*, one a channel message, in the order in which they
were created. Folding is a maximum by version, so order, repetition and overlap do not matter. A
delta is never folded: what it means, only the chain of its own attachment can tell (`chains`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import Event
from rehydrate.core.positions import serial_time_ms
from rehydrate.core.replay.timings import Timings
from rehydrate.core.text.content import NO_SEQ, Run, Segment, result_segment
from rehydrate.core.text.size_budget import measured

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VERSIONED = 1_000
"""How many channel messages one response may be made of: memory has a bound."""

VERSIONED_FIRST = NO_SEQ - 1
"""``first`` of the run of a message's first message; each further one's is one less."""


class VersionedHeader(NamedTuple):
    """What there is to know of a message beside what it says.

    ``first``: of its run, which is its number within the message. ``version``: the greatest version
    serial that was seen. ``at_ms``: when the channel message was created. ``is_last``: its
    publisher expects no further version. ``step``, ``attempt``: it counts only as long as no later
    attempt at that step began.
    """

    serial: str
    first: int
    version: str
    at_ms: int
    is_last: bool = False
    step: str | None = None
    attempt: str | None = None


class VersionedMessage:
    """One channel message of a response, as far as it was seen; ``run`` is what it says."""

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
        told: dict[str, Any] = {"serial": header.serial, "version": header.version}
        if header.is_last:
            told["last"] = True
        if header.step is not None:
            told["step"], told["attempt"] = header.step, header.attempt
        return told

    def apply(self, event: Event) -> None:
        """Take the version that *event* says, which is a later one."""
        segments = _segments(event)
        if not self._extend(segments, published_ms(event)):
            first = self.header.first
            self.run = Run(first, first, [], Timings())  # another one: who stored it writes it anew
            for segment in segments:
                self.append(segment, published_ms(event))

    def _extend(self, segments: list[Segment], at_ms: int) -> bool:
        """Add what came, if that is all that is new."""
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
        """Add what comes next."""
        self.run.append_segment(segment, at_ms)


def _segments(event: Event) -> list[Segment]:
    """What a version says, as steps of one part."""
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
    """When *event* was published: of a channel message that grows, this version of it."""
    published_ms = serial_time_ms(event.version.serial) if event.version else None
    return event.timestamp_ms if published_ms is None else published_ms


def fold_version(known: dict[str, VersionedMessage], steps: dict[str, str], event: Event) -> bool:
    """Fold the version that *event* says into the messages *known*; False if it changes nothing.

    *steps*: the latest attempt at each step.
    """
    version, serial = event.version, event.serial
    if version is None or serial is None:
        return False
    began = _note_attempt(steps, version.step, version.attempt)
    message = known.get(serial)
    if event.kind == "void" or (message is not None and version.serial <= message.version):
        return began
    if message is None:
        header = VersionedHeader(
            serial, VERSIONED_FIRST - len(known), version.serial, event.timestamp_ms
        )
        message = known[serial] = VersionedMessage(header)
    message.header = message.header._replace(
        version=version.serial, is_last=version.is_last, step=version.step, attempt=version.attempt
    )
    message.apply(event)
    return True


def _note_attempt(steps: dict[str, str], step: str | None, attempt: str | None) -> bool:
    """Note an attempt at a step; False if a later one, or this one, is known."""
    if step is None or attempt is None or attempt <= steps.get(step, ""):
        return False
    steps[step] = attempt
    return True


def length_of(known: Mapping[str, VersionedMessage], event: Event) -> int:
    """How much the channel message of *event* holds already."""
    message = known.get(event.serial or "")
    return 0 if message is None else measured([message.run]).characters


def visible(
    known: Mapping[str, VersionedMessage], steps: Mapping[str, str]
) -> list[VersionedMessage]:
    """The messages that count, in the order of their creation."""
    messages = sorted(known.values(), key=lambda message: message.serial)
    return [
        message
        for message in messages
        if (header := message.header).step is None
        or header.attempt == steps.get(header.step, header.attempt)
    ]


def from_wire(part: Mapping[str, Any], known: int, at_ms: int) -> list[VersionedMessage]:
    """The messages that *part* of a wire form came from, after *known* others."""
    made: list[VersionedMessage] = []
    for key in ("through", "result_through"):
        if (told := part.get(key)) is None:
            continue
        header = VersionedHeader(
            told["serial"], VERSIONED_FIRST - known - len(made), told["version"], at_ms
        )
        step = (told.get("step"), told.get("attempt"))
        message = VersionedMessage(VersionedHeader(*header[:4], told.get("last", False), *step))
        for segment in _segments_of_part(part, key):
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
