"""The items of an answer: as they are streamed, and as the vendor sends them complete."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.providers.vendor_events import ToolCallDone, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.providers.interpreting import RawEvent

KEPT_CHARACTERS_MAX = 262_144
"""Of a longer streamed text only a checksum is kept, so that long streams use little memory."""

EXACT, BEGINS, CONTRADICTS = 2, 1, 0
"""How a whole text compares with the deltas."""


class Tally:
    """The deltas of one text so far, to be compared with the whole text."""

    __slots__ = ("_crc", "_pieces", "done", "length", "skipped", "whole")

    def __init__(self, *, whole: bool = True) -> None:
        self.length = 0
        self._crc = 0
        self._pieces: list[str] | None = []
        self.done = False
        self.skipped = 0
        """How many of the next characters are a repetition."""
        self.whole = whole
        """False if the text had begun before this stream, so its deltas cannot be compared."""

    def add(self, text: str) -> str:
        """Add a delta; return the part of it that is not a repetition."""
        if self.skipped:
            repeated = min(self.skipped, len(text))
            self.skipped -= repeated
            text = text[repeated:]
        self.length += len(text)
        self._crc = zlib.crc32(text.encode("utf-8", "surrogatepass"), self._crc)
        if self._pieces is not None:
            self._pieces.append(text)
            if self.length > KEPT_CHARACTERS_MAX:
                self._pieces = None
        return text

    def rest(self, full: str) -> str | None:
        """Return the part of *full* that the deltas lack, or None if they do not match *full*."""
        if not self.whole:
            return ""
        head = full[: self.length]
        if len(head) < self.length:
            return None
        if zlib.crc32(head.encode("utf-8", "surrogatepass")) != self._crc:
            return None
        return full[self.length :]

    def text(self) -> str | None:
        """Return all deltas as one text, or None if they are not known or not kept."""
        return None if self._pieces is None or not self.whole else "".join(self._pieces)

    def compared(self, full: str) -> int:
        """Return whether *full* equals, continues or contradicts the deltas."""
        rest = self.rest(full)
        if rest is None or (rest and self.done):
            return CONTRADICTS
        return BEGINS if rest or not self.length else EXACT


class Text:
    """One text of an item: a part of the answer.

    ``began``: its place among the parts of the answer as they were published, or None.
    """

    __slots__ = ("annotations", "began", "final", "key", "kind", "place", "tally")

    def __init__(self, kind: str, key: str, place: str, tally: Tally) -> None:
        self.kind = kind
        self.key = key
        self.place = place
        self.tally = tally
        self.final: str | None = None
        self.annotations: list[Any] = []
        self.began: int | None = None

    def compared(self, full: str) -> int:
        """Return whether *full* equals, continues or contradicts the text so far."""
        if self.final is None:
            return self.tally.compared(full)
        return EXACT if self.final == full else CONTRADICTS

    def part(self) -> dict[str, Any] | None:
        """Return the text as a part, or None if it is not known."""
        whole = self.tally.text() if self.final is None else self.final
        return None if whole is None else {"type": self.kind, "text": whole, "part": self.key}


class Call:
    """One tool call. ``id``: the id of its part; ``vendor_id``: its newest id at the vendor."""

    __slots__ = (
        "args",
        "began",
        "failed",
        "has_result",
        "id",
        "kind",
        "name",
        "result",
        "tally",
        "vendor_id",
    )

    def __init__(self, id_: str, vendor_id: str, name: str, kind: str) -> None:
        self.id = id_
        self.vendor_id = vendor_id
        self.name = name
        self.kind = kind
        self.tally = Tally()
        self.args: str | None = None
        self.result: Any = None
        self.failed = False
        self.has_result = False
        self.began: int | None = None

    def compared(self, full: str) -> int:
        """Return whether *full* equals, continues or contradicts the arguments so far."""
        if self.args is None:
            return self.tally.compared(full)
        return EXACT if self.args == full else CONTRADICTS

    @property
    def complete(self) -> bool:
        """True if the vendor has sent all arguments, or the text so far is a JSON object."""
        if self.args is not None:
            return True
        try:
            return isinstance(json.loads(self.tally.text() or ""), dict)
        except (ValueError, RecursionError):
            return False

    def done(self, incoming: RawEvent) -> ToolCallDone:
        """Return the typed event of the complete call."""
        args = self.args if self.args is not None else self.tally.text() or ""
        return ToolCallDone(
            incoming.type, incoming.number, self.id, self.name, self.kind, args, self.vendor_id
        )

    def part(self) -> dict[str, Any] | None:
        """Return the call as a part, or None if its arguments are not known."""
        args = self.tally.text() if self.args is None else self.args
        if args is None:
            return None
        part = call_part(self.id, self.name, args)
        if self.has_result:
            set_result(part, self.result, failed=self.failed)
        return part


class Item:
    """A message, a block of reasoning, or a call, as far as it has been streamed.

    Attributes:
        ordinal: its number in the keys of its parts.
        kind: the vendor's type.
        ids: the vendor's ids of it.
        index: the vendor's index of it.
        announced: the vendor has announced it; otherwise a delta came first.
        done: the vendor has sent it whole.
        raw: the whole item, as the vendor sent it last.
    """

    __slots__ = (
        "announced",
        "call",
        "done",
        "ids",
        "index",
        "kind",
        "late",
        "ordinal",
        "raw",
        "texts",
    )

    def __init__(self, ordinal: int, kind: str, ids: Iterable[str], index: int | None) -> None:
        self.ordinal = ordinal
        self.kind = kind
        self.ids = {id_ for id_ in ids if id_}
        self.index = index
        self.texts: dict[str, Text] = {}
        self.call: Call | None = None
        self.announced = False
        self.done = False
        self.late = False
        self.raw: dict[str, Any] | None = None


class FinalText(NamedTuple):
    """A whole text of an item; ``place`` distinguishes it from the item's other texts."""

    kind: str
    place: str
    text: str
    annotations: Sequence[Any] = ()


class FinalCall(NamedTuple):
    """A whole tool call; ``failed``: its result is an error."""

    id: str
    name: str
    args: str
    has_result: bool = False
    result: Any = None
    failed: bool = False


class Final(NamedTuple):
    """A whole item. ``answers``: the id of the call that it is the result of; ``at``: its index."""

    kind: str
    id: str
    at: int | None
    texts: Sequence[FinalText] = ()
    call: FinalCall | None = None
    answers: FinalCall | None = None
    raw: dict[str, Any] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The vendor's ids of the item."""
        return (self.id,) if self.call is None else (self.id, self.call.id)


def call_part(call_id: str, name: str, args: str) -> dict[str, Any]:
    """Return the part of a tool call without a result."""
    return {
        "type": "tool_call",
        "tool_call_id": label(call_id),
        "name": label(name),
        "args": args,
        "result": None,
        "status": "in_progress",
    }


def set_result(part: dict[str, Any], result: Any, *, failed: bool = False) -> None:
    """Set the result of a tool call's *part*; if it *failed*, *result* is the error."""
    part["result"] = result
    part["status"] = "failed" if failed else "completed"
