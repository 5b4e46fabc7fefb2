"""Rates as Ably documents them: so many messages a second."""

from __future__ import annotations


class Rate:
    """A bucket of *per_second* messages that fills at that rate."""

    __slots__ = ("_at_ms", "_left", "per_second")

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._left = float(per_second)
        self._at_ms = 0

    def takes(self, now_ms: int) -> bool:
        """Take one message from the budget; return False if it is used up."""
        passed_ms = max(0, now_ms - self._at_ms)
        self._left = min(self.per_second, self._left + passed_ms * self.per_second / 1000)
        self._at_ms = now_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True
