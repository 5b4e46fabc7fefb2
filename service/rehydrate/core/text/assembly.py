"""The parts that runs and versioned messages add up to: what a reader sees of a response.

A part may have ``gaps``: ``[[at, first, last], …]``. Before the character *at* of its text (counted
in code points) the seqs *first* … *last* are missing. Of a tool call *at* is 0: they are missing
somewhere in it, or right behind it. A gap lies where the stream was when it began: in the part that
was extended last. One before all content lies at the beginning of the first part.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.core.text.content import Run, Segment
    from rehydrate.core.text.versioned_messages import VersionedMessage


_SPOKEN = ("text", "refusal")
"""Types of parts that are in a message's text."""


def assemble(
    runs: Iterable[Run], versioned: Iterable[VersionedMessage] = (), gaps: Iterable[Gap] = ()
) -> list[dict[str, Any]]:
    """Return the parts of *runs*, then of *versioned*, in the order in which they began.

    Each part carries those of *gaps* that lie in it.
    """
    parts: list[dict[str, Any]] = []
    keyed: dict[tuple[str, str], dict[str, Any]] = {}
    marks, last = Marks(gaps), None
    for run in runs:
        marks.before(run.first, last)
        for segment in run.segments:
            add = _add_text if segment.type in ("text", "refusal", "reasoning") else _add_call_step
            last = add(parts, keyed, segment)
    marks.end(last, parts[0] if parts else None)
    for message in versioned:
        for segment in message.shown:
            _add_versioned(parts, keyed, segment, message)
    for part in parts:
        if "marks" in part:
            part["gaps"] = placed(part.pop("marks"), part.get("fragments", ()))
        if "fragments" in part:
            part["text"] = "".join(part.pop("fragments"))
            if (key := part.pop("key")) is not None:
                part["part"] = key
    return parts


def spoken_text(parts: list[dict[str, Any]]) -> str:
    """Return the text of a message: its text and refusal parts, in order."""
    return "".join(part["text"] for part in parts if part["type"] in _SPOKEN)


def _add_text(
    parts: list[dict[str, Any]], keyed: dict[tuple[str, str], dict[str, Any]], segment: Segment
) -> dict[str, Any]:
    """Add text to its part, which is returned."""
    if segment.key is not None:
        part = keyed.get((segment.type, segment.key))
    else:
        part = parts[-1] if parts else None
        if part is not None and (part["type"] != segment.type or part.get("key") is not None):
            part = None
    if part is None:
        part = {"type": segment.type, "key": segment.key, "fragments": []}
        parts.append(part)
        if segment.key is not None:
            keyed[segment.type, segment.key] = part
    part["fragments"].extend(segment.fragments)
    return part


def _add_versioned(
    parts: list[dict[str, Any]],
    keyed: dict[tuple[str, str], dict[str, Any]],
    segment: Segment,
    message: VersionedMessage,
) -> None:
    """Add a step of a versioned message; it is a part of its own, or of a tool call."""
    if segment.type in ("text", "refusal", "reasoning"):
        _add_text(parts, keyed, segment)
        parts[-1]["through"] = message.through
        return
    _add_call_step(parts, keyed, segment)
    key = "result_through" if segment.type == "tool_result" else "through"
    keyed["tool_call", segment.key or ""][key] = message.through


def _add_call_step(
    parts: list[dict[str, Any]], keyed: dict[tuple[str, str], dict[str, Any]], segment: Segment
) -> dict[str, Any]:
    """Add a step of a tool call, whose part is returned."""
    call_id = segment.key or ""
    part = keyed.get(("tool_call", call_id))
    if part is None:
        part = {
            "type": "tool_call",
            "tool_call_id": call_id,
            "name": None,
            "args": "",
            "result": None,
            "status": "in_progress",
        }
        parts.append(part)
        keyed["tool_call", call_id] = part
    if segment.type == "tool_args":
        if isinstance(part["args"], str):
            part["args"] += "".join(segment.fragments)
        return part
    if segment.value.get("name") is not None:
        part["name"] = segment.value["name"]
    if segment.type == "tool_call":
        part["args"] = segment.value["args"]
        part["status"] = segment.value.get("status", "in_progress")
    else:
        part["result"] = segment.value["result"]
        part["status"] = segment.value.get("status", "completed")
    return part


Gap = tuple[int, int]
Part = dict[str, Any]


class Marks:
    """Marks *gaps* in parts while these are assembled from runs.

    A part that is being assembled has ``fragments`` (a tool call has none). A mark counts them, so
    that no text is measured before it is whole.
    """

    def __init__(self, gaps: Iterable[Gap]) -> None:
        self._left = list(gaps)[::-1]
        self._leading: list[Gap] = []

    def before(self, seq: int, last: Part | None) -> None:
        """Mark all gaps before *seq* behind *last*, the part that was extended last."""
        while self._left and self._left[-1][1] < seq:
            self._mark(last, self._left.pop())

    def end(self, last: Part | None, first: Part | None) -> None:
        """Mark the remaining gaps behind *last*; those before all content in the *first* part."""
        while self._left:
            self._mark(last, self._left.pop())
        if first is not None and self._leading:
            first["marks"] = [(0, *gap) for gap in self._leading] + first.get("marks", [])

    def _mark(self, last: Part | None, gap: Gap) -> None:
        if last is None:
            self._leading.append(gap)
        else:
            last.setdefault("marks", []).append((len(last.get("fragments", ())), *gap))


def placed(marks: Iterable[tuple[int, int, int]], fragments: Sequence[str]) -> list[list[int]]:
    """Return the ``gaps`` of a part of *fragments*: its *marks* by characters."""
    lengths = list(accumulate(map(len, fragments), initial=0))
    return [[lengths[count], first, last] for count, first, last in marks]


def parted(parts: Sequence[Part], gaps: Iterable[Sequence[int]]) -> list[list[Part]]:
    """Return *parts* cut at the gaps: what precedes each gap, and the rest.

    Only the places are kept: text of parts with keys may come earlier than it did. A gap that no
    part has the place of lies behind everything that is left.
    """
    cutting = _Cutting(parts)
    return [*(cutting.up_to(first) for first, _ in gaps), cutting.rest()]


class _Cutting:
    """Removes parts from the beginning, in the order in which they were published."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._taken = [0] * len(parts)
        self._marks = [[list(gap) for gap in part.get("gaps", ())] for part in parts]
        self._places = {gap[1]: i for i, gaps in enumerate(self._marks) for gap in gaps}

    def up_to(self, first: int) -> list[Part]:
        """Return what precedes the gap that begins at *first*; the part with the gap is last."""
        here = self._places.get(first)
        if here is None:
            return self.rest()
        cut: list[Part] = []
        marked = 0
        for index, part in enumerate(self._parts):
            cut += self._take(index, even_empty=index == here)
            if index == here:
                marked = len(cut)
            keyed = "part" in part or part["type"] == "tool_call"
            if not keyed and (index == here or self._marks[index]):
                break  # text without a key continues only the last part
        if marked != len(cut):
            cut += self._take(here, even_empty=True)
        self._marks[here].pop(0)
        return cut

    def rest(self) -> list[Part]:
        """Return everything that is left."""
        self._marks = [[] for _ in self._parts]
        return [cut for index in range(len(self._parts)) for cut in self._take(index)]

    def _take(self, index: int, *, even_empty: bool = False) -> list[Part]:
        """Return the text of part *index* up to its next mark."""
        part, taken, marks = self._parts[index], self._taken[index], self._marks[index]
        if part["type"] == "tool_call":
            self._taken[index] = 1
            return [part] if even_empty or not taken else []
        end = marks[0][0] if marks else len(part["text"])
        self._taken[index] = end
        return [{**part, "text": part["text"][taken:end]}] if even_empty or end > taken else []
