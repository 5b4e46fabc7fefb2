"""How often something may be done, for others who count how often it was: Ably counts publishes."""

from __future__ import annotations

_SHARE_AT_ONCE = 10
"""A tenth of what a second allows may be done at once; the rest is spread evenly over the second."""


class Pace:
    """At most *per_s* in any second, wherever it begins; 0: as often as wanted.

    A whole second's worth at once would double what the second around it holds. So only a tenth
    may come at once, and what is sustained is a tenth less (of 50: 5 at once, then 46 a second).
    """

    __slots__ = ("_interval_s", "_leeway_s", "_next_s", "per_s")

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        at_once = max(1, int(per_s / _SHARE_AT_ONCE))
        self._interval_s = 1 / (per_s - (at_once - 1)) if per_s else 0.0
        self._leeway_s = (at_once - 1) * self._interval_s
        self._next_s = float("-inf")

    @property
    def sustained_per_s(self) -> float:
        """How often it may be done for long; 0: as often as wanted."""
        return 1 / self._interval_s if self._interval_s else 0.0

    def wait_s(self, now_s: float) -> float:
        """How long to wait from *now_s* on, in seconds; 0: it may be done now."""
        wait_s = self._next_s - self._leeway_s - now_s
        return wait_s if wait_s > _TINY_S else 0.0

    def take(self, now_s: float, cost: float = 1.0) -> None:
        """It is done now, and counts as *cost* times."""
        self._next_s = max(self._next_s, now_s) + cost * self._interval_s


_TINY_S = 1e-6
"""What rounding may leave: a timer would fire at once."""
