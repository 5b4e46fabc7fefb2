"""Rate limit and congestion window for publishing.

Ably counts publishes per second, and a connection that is given more than it can deliver answers
later and later. The two classes have no clock: the caller passes the time.
"""

from __future__ import annotations

_SHARE_AT_ONCE = 10
"""A burst may be this fraction of one second; the rest is spread over the second."""


class RateLimit:
    """At most *per_s* in any second, wherever it begins; 0: unlimited.

    A burst of a whole second's worth would double what the second around it holds. So a burst is at
    most a tenth of it, and the sustained rate is a tenth lower (of 50: 5 at once, then 46 a
    second).
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
        """The sustained rate; 0: unlimited."""
        return 1 / self._interval_s if self._interval_s else 0.0

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait from *now_s* on, in seconds; 0: not at all."""
        wait_s = self._next_s - self._leeway_s - now_s
        return wait_s if wait_s > _TINY_S else 0.0

    def spend(self, now_s: float, cost: float = 1.0) -> None:
        """Count one act at *now_s*, which costs as much as *cost* acts."""
        self._next_s = max(self._next_s, now_s) + cost * self._interval_s


_TINY_S = 1e-6
"""A wait shorter than this is a rounding error, for which a timer would fire at once."""


class MinimumLatency:
    """The lowest latency of the last *period_s* seconds, and up to as long before."""

    __slots__ = ("_before_s", "_period_s", "_since_s", "_until_s")

    def __init__(self, period_s: float = 10.0) -> None:
        self._period_s = period_s
        self._before_s = self._since_s = float("inf")
        self._until_s = float("-inf")

    def update(self, took_s: float, now_s: float) -> float:
        """Add a latency, in seconds; return the lowest."""
        if now_s >= self._until_s:
            self._before_s, self._since_s = self._since_s, float("inf")
            self._until_s = now_s + self._period_s
        self._since_s = min(self._since_s, took_s)
        return min(self._since_s, self._before_s)


class CongestionWindow:
    """How many publishes may be in flight: fewer while acknowledgements are slow.

    Sending faster than Ably acknowledges only moves the queue. So the window grows by one for as
    many acknowledgements as it is wide, and halves when one took much longer than the lowest recent
    latency, though not again for publishes that were sent before it did.

    Args:
        most: its greatest width, and its first; at least 1.
    """

    __slots__ = ("_most", "_shrunk_s", "_width")

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = float(most)
        self._shrunk_s = float("-inf")

    @property
    def width(self) -> int:
        """How many may be in flight."""
        return int(self._width)

    def answered(self, took_s: float, quickest_s: float, now_s: float) -> None:
        """Count an acknowledgement that arrived *took_s* after its publish."""
        if took_s <= quickest_s + max(_PATIENCE_S, quickest_s / 2):
            self._width = min(float(self._most), self._width + 1 / self._width)
        elif now_s - took_s >= self._shrunk_s:
            self._width = max(1.0, self._width / 2)
            self._shrunk_s = now_s


_PATIENCE_S = 0.025
"""A publish that took this much longer than the fastest one waited behind others."""
