"""A tape that lies in the store in pieces, unpacked only when somebody looks."""

from __future__ import annotations

from rehydrate.core.tape import Tape, Tick


class StoredTape(Tape):
    """The ticks of one run, as they were appended piece by piece.

    Attributes:
        stored: how many ticks came from the store; None as long as nobody has looked.
    """

    __slots__ = ("_pieces", "stored")

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__(packed=b"")
        self._pieces: list[bytes] | None = pieces
        self.stored: int | None = None

    @property
    def ticks(self) -> list[Tick]:
        """The ticks, which the caller may append to."""
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            self._ticks = [tick for piece in pieces for tick in Tape(packed=piece).ticks]
            self.stored = len(self._ticks)
        return super().ticks

    def packed(self) -> bytes:
        """The compact form of all pieces together."""
        if self._pieces is not None:
            if len(self._pieces) == 1:
                return self._pieces[0]
            self.ticks  # noqa: B018 - unpacks, so that they can be packed as one
        return super().packed()
