"""Store clock: whether the times at which leases expire, by Postgres's clock, can be relied on.

Leases expire by the wall clock of the database's machine, which an administrator or a resumed
virtual machine may set. Setting it forward expires the leases of living publishers; setting it back
keeps those of dead ones. So this process compares it with its own monotonic clock whenever it reads
leases, and relies only on what it has measured itself:

* A lease that has expired proves a silence of its length only if the clock was not set during that
  time. After the clock was set, every living holder has renewed its lease within one lease duration.
* A restart of Postgres counts as a step: no lease could be renewed while it was down.
* A lease that expires further ahead than any could, on a clock that ran evenly for a lease, was
  not renewed for that long either.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TOLERANCE_S = 1.0
"""The largest difference between both clocks that counts as none; also of a sample's duration."""

_FAR_S = 60.0

SLEW_S = 60.0
"""How often the comparison restarts, in seconds, since clocks may drift apart slowly."""


class StoreClock:
    """Compares Postgres's clock with this process's monotonic clock.

    Args:
        now_s: the monotonic clock, in seconds.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.now_s = now_s
        self._even_since_s: float | None = None
        self._stepped_s: float | None = None
        self._started_s: float | None = None
        self._sampled_s = self._reference_s = self._offset_s = 0.0

    def sample(self, store_s: float, sent_s: float, started_s: float | None = None) -> bool:
        """Compare *store_s*, Postgres's time in an answer that arrived just now.

        Args:
            store_s: the time, in seconds since 1970.
            sent_s: when it was requested, by the monotonic clock.
            started_s: when Postgres started, as it reports; None: not asked. A restart counts as a
                step, since no lease could be renewed.

        Returns:
            Whether the sample is precise enough to count.
        """
        received_s = self.now_s()
        if received_s - sent_s > TOLERANCE_S:
            return False
        offset_s = store_s - (sent_s + received_s) / 2
        stepped = abs(offset_s - self._offset_s) > TOLERANCE_S
        if started_s is not None:
            stepped = stepped or self._started_s not in (None, started_s)
            self._started_s = started_s
        if self._even_since_s is None or stepped:
            if self._even_since_s is not None:
                self._stepped_s = received_s
            self._even_since_s = received_s
        if self._even_since_s == received_s or received_s - self._reference_s > SLEW_S:
            self._offset_s, self._reference_s = offset_s, received_s
        self._sampled_s = received_s
        return True

    def even_for(self, seconds: float) -> bool:
        """Whether the clock is known to have run evenly for so long until the last sample."""
        return self._even_since_s is not None and self._sampled_s - self._even_since_s >= seconds

    def stepped_within(self, seconds: float) -> bool:
        """Whether the clock was seen to be set within the last so many seconds."""
        return self._stepped_s is not None and self.now_s() - self._stepped_s < seconds

    def believes(self, lease_s: float) -> tuple[bool, bool]:
        """Whether leases of *lease_s* seconds that have expired count as such; and far ones, too.

        Far is what expires more than `far_s` ahead.
        """
        return not self.stepped_within(lease_s), self.even_for(lease_s)

    def expired(self, until_s: float, store_s: float, lease_s: float) -> bool:
        """Whether a lease until *until_s* has expired at *store_s*, both by Postgres's clock."""
        past, far = self.believes(lease_s)
        return past if until_s <= store_s else far and until_s > store_s + far_s(lease_s)


def far_s(lease_s: float) -> float:
    """Return how far ahead no lease of *lease_s* seconds expires, in seconds.

    It is more than a lease, since other processes may be configured with longer ones.
    """
    return max(2 * lease_s, _FAR_S)
