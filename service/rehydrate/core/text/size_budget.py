"""The size of one response: memory, rows and answers have limits, for every publisher.

Our own publishers get an error at the limit. Of other publishers the event is not folded: the
response ends there as ``incomplete`` with the error `TOO_LARGE`, and keeps what it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.json import dump
from rehydrate.errors import TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rehydrate.core.event import Event
    from rehydrate.core.text.content import Run, Segment

MAX_CHARACTERS = 10 * 1024 * 1024
"""Of its text, its reasoning, and the JSON of its tool calls together."""

MAX_EVENTS = 1_000_000
MAX_SEQ = 2 * MAX_EVENTS
"""A seq beyond it is not a place in a response; the message is not an event."""

MAX_STEPS = 100_000
"""How often a response may change from one part to another, which bounds its parts."""

VALUE_BYTES = 56_000
"""Of tool arguments or a result, as JSON in ASCII. With its headers it has to fit a channel
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
        found.characters += sum(map(_length, run.segments))
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


def _length(segment: Segment) -> int:
    length = sum(map(len, segment.fragments)) + len(segment.key or "")
    if segment.value is not None:
        value = segment.value
        length += value_length(value.get("name"), value.get("args", value.get("result")))
    return length
