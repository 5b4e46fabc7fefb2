"""Ably's clock: what time it is there, whatever the wall clock of this machine is set to.

Serials, timestamps and retention are Ably's, so what is compared with them must be its time. It is
asked for now and then, and in between carried on by a clock that nobody sets.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from rehydrate.ably.backoff import Backoff
from rehydrate.errors import ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LOG = logging.getLogger("rehydrate.ably")

ASK_EVERY_S = 300.0
_FIRST_WAIT_S = 2.0
"""How long opening waits for the time; without an answer there is no history to read either."""

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 2.0
_SET_MS = 1_000


class ServerClock:
    """Knows Ably's time: never ahead of it, and behind by no more than an answer takes.

    Args:
        ask: asks Ably for its time, ms since 1970.
        wall_ms: our own clock, ms since 1970, which goes until Ably has answered.
        steady_ms: a clock that is never set, and goes on while the machine sleeps.
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
        self._ahead_ms: int | None = None
        self._asking = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def known(self) -> bool:
        """Whether Ably has said what time it is."""
        return self._ahead_ms is not None

    def now_ms(self) -> int:
        """Ably's time, ms since 1970; the machine's until Ably has answered."""
        if self._ahead_ms is None:
            return self._wall_ms()
        return self._steady_ms() + self._ahead_ms

    async def learn(self) -> None:
        """Return once the time is known: at once, nearly always.

        Raises:
            ChannelUnavailable: Ably does not answer.
        """
        if self.known:
            return
        async with self._asking:
            if not self.known:
                await self._learn()

    async def open(self) -> None:
        """Ask, and go on asking now and then."""
        if self._keeper is not None:
            return
        try:
            async with asyncio.timeout(_FIRST_WAIT_S):
                await self.learn()
        except (ChannelUnavailable, TimeoutError):
            _LOG.warning("Ably does not say what time it is; the clock of this machine goes")
        self._keeper = asyncio.create_task(self._keep(), name="rehydrate channel clock")

    async def close(self) -> None:
        """Ask no more."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self) -> None:
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        while True:
            every_s = ASK_EVERY_S * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load
            await asyncio.sleep(every_s if self.known else backoff.next_s())
            try:
                async with self._asking:
                    await self._learn()
            except ChannelUnavailable as error:
                _LOG.debug("asking Ably for its time: %s", error)

    async def _learn(self) -> None:
        said_ms = await self._ask()
        off_ms = self._wall_ms() - said_ms
        if not self.known and abs(off_ms) > _SET_MS:
            _LOG.warning("the clock of this machine is %d ms ahead of Ably's", off_ms)
        self._ahead_ms = int(said_ms) - self._steady_ms()


def _steady_ms() -> int:
    asleep = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(asleep) // 1_000_000
