"""How often something may be done, and how much of it at a time, for others who count, or tire.

Ably counts publishes; and whoever is given more than it gets through, answers later and later.
"""

from __future__ import annotations

_SHARE_AT_ONCE = 10
"""A tenth of what a second allows may be done at once; the rest is spread evenly over the second."""


class RateLimit:
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

    def spend(self, now_s: float, cost: float = 1.0) -> None:
        """It is done now, and counts as *cost* times."""
        self._next_s = max(self._next_s, now_s) + cost * self._interval_s


_TINY_S = 1e-6
"""What rounding may leave: a timer would fire at once."""


class MinimumLatency:
    """The quickest of lately: of the last *period_s*, and up to as much before."""

    __slots__ = ("_before_s", "_period_s", "_since_s", "_until_s")

    def __init__(self, period_s: float = 10.0) -> None:
        self._period_s = period_s
        self._before_s = self._since_s = float("inf")
        self._until_s = float("-inf")

    def update(self, took_s: float, now_s: float) -> float:
        """Take *took_s* into account; return the quickest."""
        if now_s >= self._until_s:
            self._before_s, self._since_s = self._since_s, float("inf")
            self._until_s = now_s + self._period_s
        self._since_s = min(self._since_s, took_s)
        return min(self._since_s, self._before_s)


class CongestionWindow:
    """How many may be under way at once: fewer while answers take longer than they need to.

    Whatever is sent faster than it is answered only waits elsewhere. So the window grows by one
    for as many answers as it is wide, and shrinks by half when one took much longer than the
    quickest of lately, though not again for those that were sent before it did.

    Args:
        most: its greatest width, and its first; it is at least 1.
    """

    __slots__ = ("_most", "_shrunk_s", "_width")

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = float(most)
        self._shrunk_s = float("-inf")

    @property
    def width(self) -> int:
        """How many may be under way."""
        return int(self._width)

    def answered(self, took_s: float, quickest_s: float, now_s: float) -> None:
        """One was answered, *took_s* after it was sent."""
        if took_s <= quickest_s + max(_PATIENCE_S, quickest_s / 2):
            self._width = min(float(self._most), self._width + 1 / self._width)
        elif now_s - took_s >= self._shrunk_s:
            self._width = max(1.0, self._width / 2)
            self._shrunk_s = now_s


_PATIENCE_S = 0.025
"""An answer that is later than the quickest by this has waited behind others."""
