"""A tape that lies in the store in pieces, unpacked only when somebody looks."""

from __future__ import annotations

from rehydrate.core.replay.timings import Timing, Timings, count


class StoredTimings(Timings):
    """The ticks of one run, as they were appended piece by piece; appending unpacks nothing."""

    __slots__ = ("_came", "_pieces", "_stored")

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__(packed=b"")
        self._pieces: list[bytes] | None = pieces
        self._came: list[Timing] = []
        self._stored = 0

    @property
    def entries(self) -> list[Timing]:
        """The ticks, which the caller may append to."""
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            stored = [tick for piece in pieces for tick in Timings(packed=piece).entries]
            self._stored = len(stored)
            self._entries = stored + self._came
        return super().entries

    @property
    def came(self) -> list[Timing]:
        """The ticks that came since it was read from the store."""
        return self._came if self._pieces is not None else self.entries[self._stored :]

    @property
    def unpacked(self) -> bool:
        """Whether somebody has looked."""
        return self._pieces is None

    def __len__(self) -> int:
        """How many ticks there are."""
        if self._pieces is not None:
            return sum(map(count, self._pieces)) + len(self._came)
        return super().__len__()

    def append(self, tick: Timing) -> None:
        """Add *tick* behind the others."""
        if self._pieces is not None:
            self._came.append(tick)
        else:
            super().append(tick)

    def packed(self) -> bytes:
        """The compact form of all pieces together."""
        if self._pieces is not None:
            if len(self._pieces) == 1 and not self._came:
                return self._pieces[0]
            self.entries  # noqa: B018 - unpacks, so that they can be packed as one
        return super().packed()
