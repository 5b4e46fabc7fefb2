"""Channel messages that grow: of each one, the greatest version that was seen, whole.

A response in such a dialect is made of *cells*, one a channel message, in the order in which they
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

MAX_CELLS = 1_000
"""How many channel messages one response may be made of: memory has a bound."""

CELL_FIRST = NO_SEQ - 1
"""``first`` of the run of a message's first cell; each further one's is one less."""


class Place(NamedTuple):
    """What there is to know of a cell beside what it says.

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

    __slots__ = ("place", "run")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.run = Run(place.first, place.first, [], Timings())

    @property
    def serial(self) -> str:
        """The serial of the channel message."""
        return self.place.serial

    @property
    def version(self) -> str:
        """The greatest version serial that was seen."""
        return self.place.version

    @property
    def through(self) -> dict[str, Any]:
        """Up to where it is folded, in its wire form."""
        place = self.place
        told: dict[str, Any] = {"serial": place.serial, "version": place.version}
        if place.is_last:
            told["last"] = True
        if place.step is not None:
            told["step"], told["attempt"] = place.step, place.attempt
        return told

    def say(self, event: Event) -> None:
        """Take the version that *event* says, which is a later one."""
        segments = _segments(event)
        if not self._extend(segments, said_ms(event)):
            first = self.place.first
            self.run = Run(first, first, [], Timings())  # another one: who stored it writes it anew
            for segment in segments:
                self.append(segment, said_ms(event))

    def _extend(self, segments: list[Segment], at_ms: int) -> bool:
        """Add what came, if that is all that is new."""
        have = self.run.segments
        if not have or [s[:2] for s in have] != [s[:2] for s in segments][: len(have)]:
            return not have and not segments
        last, now = have[-1], segments[len(have) - 1]
        before, after = "".join(last.pieces), "".join(now.pieces)
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
        self.run.take(segment, at_ms)


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


def said_ms(event: Event) -> int:
    """When *event* was published: of a channel message that grows, this version of it."""
    said_ms = serial_time_ms(event.version.serial) if event.version else None
    return event.timestamp_ms if said_ms is None else said_ms


def take(known: dict[str, VersionedMessage], steps: dict[str, str], event: Event) -> bool:
    """Fold the version that *event* says into the cells *known*; False if it changes nothing.

    *steps*: the latest attempt at each step.
    """
    version, serial = event.version, event.serial
    if version is None or serial is None:
        return False
    began = _begin(steps, version.step, version.attempt)
    cell = known.get(serial)
    if event.kind == "void" or (cell is not None and version.serial <= cell.version):
        return began
    if cell is None:
        place = Place(serial, CELL_FIRST - len(known), version.serial, event.timestamp_ms)
        cell = known[serial] = VersionedMessage(place)
    cell.place = cell.place._replace(
        version=version.serial, is_last=version.is_last, step=version.step, attempt=version.attempt
    )
    cell.say(event)
    return True


def _begin(steps: dict[str, str], step: str | None, attempt: str | None) -> bool:
    """Note an attempt at a step; False if a later one, or this one, is known."""
    if step is None or attempt is None or attempt <= steps.get(step, ""):
        return False
    steps[step] = attempt
    return True


def characters(known: Mapping[str, VersionedMessage], event: Event) -> int:
    """How much the channel message of *event* holds already."""
    cell = known.get(event.serial or "")
    return 0 if cell is None else measured([cell.run]).characters


def visible(
    known: Mapping[str, VersionedMessage], steps: Mapping[str, str]
) -> list[VersionedMessage]:
    """The cells that count, in the order of their creation."""
    cells = sorted(known.values(), key=lambda cell: cell.serial)
    return [
        cell
        for cell in cells
        if (place := cell.place).step is None
        or place.attempt == steps.get(place.step, place.attempt)
    ]


def from_wire(part: Mapping[str, Any], known: int, at_ms: int) -> list[VersionedMessage]:
    """The cells that *part* of a wire form came from, after *known* others."""
    made: list[VersionedMessage] = []
    for key in ("through", "result_through"):
        if (told := part.get(key)) is None:
            continue
        place = Place(told["serial"], CELL_FIRST - known - len(made), told["version"], at_ms)
        step = (told.get("step"), told.get("attempt"))
        cell = VersionedMessage(Place(*place[:4], told.get("last", False), *step))
        for segment in _said_by(part, key):
            cell.append(segment, at_ms)
        made.append(cell)
    return made


def _said_by(part: Mapping[str, Any], key: str) -> list[Segment]:
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
