"""Timings that were read from the store in packed parts and are unpacked on first use.

Folding one more event onto an open response only appends a timing. Unpacking the timings of all
earlier events each time would make the cost of a write grow with the length of the response.
"""

from __future__ import annotations

from rehydrate.core.text.content import Timing, Timings, count


class StoredTimings(Timings):
    """The timings of one run, from the packed parts of its chunks."""

    __slots__ = ("_appended", "_parts", "_stored")

    def __init__(self, parts: list[bytes]) -> None:
        super().__init__(packed=b"")
        self._parts: list[bytes] | None = parts
        self._appended: list[Timing] = []
        self._stored = 0

    @property
    def entries(self) -> list[Timing]:
        """All timings, unpacked; the caller may append to the list."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            stored = [timing for part in parts for timing in Timings(packed=part).entries]
            self._stored = len(stored)
            self._entries = stored + self._appended
        return super().entries

    @property
    def appended(self) -> list[Timing]:
        """The timings that were appended since the parts were read."""
        return self._appended if self._parts is not None else self.entries[self._stored :]

    @property
    def unpacked(self) -> bool:
        """True once the parts have been unpacked."""
        return self._parts is None

    def __len__(self) -> int:
        """Return the number of timings."""
        if self._parts is not None:
            return sum(map(count, self._parts)) + len(self._appended)
        return super().__len__()

    def append(self, timing: Timing) -> None:
        """Append *timing* without unpacking the parts."""
        if self._parts is not None:
            self._appended.append(timing)
        else:
            super().append(timing)

    def packed(self) -> bytes:
        """Return the packed form of all timings."""
        if self._parts is not None:
            if len(self._parts) == 1 and not self._appended:
                return self._parts[0]
            self.entries  # noqa: B018 - unpacks the parts, so that they can be packed as one
        return super().packed()
