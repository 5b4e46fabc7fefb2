"""Gaps at their places: where in the parts of a message the missing seqs lie.

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
