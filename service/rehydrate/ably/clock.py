"""Ably's server time, independent of the wall clock of this machine.

Serials, timestamps and retention follow Ably's clock, so times that are compared with them must be
Ably's too. The server is asked for its time every few minutes; in between, a monotonic clock
carries the last answer forward.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from rehydrate.background import Backoff, PeriodicTask
from rehydrate.errors import ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LOG = logging.getLogger("rehydrate.ably")

ASK_EVERY_S = 300.0
_FIRST_WAIT_S = 2.0
"""How long `open` waits for the server's time. Without an answer, history cannot be read either."""

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 2.0
_SKEW_WARNING_MS = 1_000


class ServerClock:
    """Estimate of Ably's time: never ahead of it, and behind by at most one request's duration.

    Args:
        ask: fetches Ably's time, ms since 1970.
        wall_ms: this machine's wall clock, ms since 1970; used until Ably has answered.
        steady_ms: a monotonic clock, ms, that also counts while the machine sleeps.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[float]],
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady_ms: Callable[[], int] | None = None,
    ) -> None:
        self._ask = ask
        self._wall_ms = wall_ms
        self._steady_ms = steady_ms or _steady_ms
        self._offset_ms: int | None = None
        self._lock = asyncio.Lock()
        self.task = PeriodicTask("channel clock", self._refresh, every_s=ASK_EVERY_S)

    @property
    def known(self) -> bool:
        """True once Ably has answered with its time."""
        return self._offset_ms is not None

    def now_ms(self) -> int:
        """Return Ably's time, ms since 1970; this machine's time until Ably has answered."""
        if self._offset_ms is None:
            return self._wall_ms()
        return self._steady_ms() + self._offset_ms

    async def sync(self) -> None:
        """Return once Ably's time is known; immediate if it already is.

        Raises:
            ChannelUnavailable: Ably does not answer.
        """
        if self.known:
            return
        async with self._lock:
            if not self.known:
                await self._fetch()

    async def open(self) -> None:
        """Fetch the time, and keep refreshing it in the background."""
        if self.task.is_open:
            return
        try:
            async with asyncio.timeout(_FIRST_WAIT_S):
                await self.sync()
        except (ChannelUnavailable, TimeoutError):
            _LOG.warning(
                "Ably did not answer with its time; using this machine's clock until it does"
            )
        self.task.open()
        if not self.known:
            self.task.wake()

    async def close(self) -> None:
        """Stop refreshing."""
        await self.task.close()

    async def _refresh(self) -> None:
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        while not self.known:  # until it is, history cannot be read: do not wait for the interval
            await asyncio.sleep(backoff.next_s())
            try:
                await self.sync()
            except ChannelUnavailable as error:
                _LOG.debug("fetching Ably's time: %s", error)
            else:
                return
        async with self._lock:
            await self._fetch()

    async def _fetch(self) -> None:
        server_ms = await self._ask()
        skew_ms = self._wall_ms() - server_ms
        if not self.known and abs(skew_ms) > _SKEW_WARNING_MS:
            _LOG.warning("this machine's clock is %d ms ahead of Ably's", skew_ms)
        self._offset_ms = int(server_ms) - self._steady_ms()


def _steady_ms() -> int:
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(boot_clock) // 1_000_000
