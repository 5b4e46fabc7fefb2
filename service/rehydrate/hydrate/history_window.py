"""A walk through what a channel has said: where hydrating gets the events that are not stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import HISTORY_LAG_MS, at_or_before, serial_time_ms
from rehydrate.core.timeline import Reason, ignored
from rehydrate.core.window import Watermark, Window, read_from_ms
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rehydrate.core.event import Event
    from rehydrate.ports import ChannelLog

HISTORY_TIMEOUT_S = 10.0
"""How long an answer waits for the channel before it goes out as the stored part alone."""

_CATCHING_UP_S = (0.05, 0.15)
"""When to read again where history does not show ``until`` yet: it lags by about 100 ms."""


class HistoryReader:
    """One walk through the channel's history, oldest message first.

    Attributes:
        counts: how many messages meant nothing.
        joined: it is known to reach what is stored; nothing is to be shown for that.
        growing: stored are channel messages that may have grown since, wherever they began.
    """

    def __init__(self, channel: ChannelLog, now_ms: int) -> None:
        self._channel = channel
        self._early: tuple[str, int, asyncio.Task[None]] | None = None
        self.window = Window(now_ms)
        self.events: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.joined = self.growing = False

    @asynccontextmanager
    async def started_early(self, name: str, since_ms: int | None) -> AsyncIterator[None]:
        """Begin to read before it is known from when; ended with the block."""
        if since_ms is None:
            yield
            return
        task = asyncio.create_task(self._read(name, since_ms))
        self._early = (name, since_ms, task)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def read(
        self, name: str, watermark: Watermark | None, until: str | None
    ) -> Reason | None:
        """Read from *watermark* to the end, and again while *until* is young and not shown.

        Returns why it could not be read, or None.
        """
        try:
            async with asyncio.timeout(HISTORY_TIMEOUT_S):
                await self._read_or_join(name, read_from_ms(watermark))
                for pause_s in _CATCHING_UP_S:
                    if self.shows(until):
                        break
                    await asyncio.sleep(pause_s)
                    await self._read(name, (self.window.newest_ms or 0) - HISTORY_LAG_MS)
        except ChannelRefused as error:
            return Reason("history_refused", retry=False, detail=f"Ably error {error.ably_code}")
        except (ChannelUnavailable, TimeoutError):
            return Reason("history_unavailable", retry=True, detail="Ably did not answer in time")
        return None

    async def _read_or_join(self, name: str, since_ms: int | None) -> None:
        if self._early is not None:
            early_name, early_ms, task = self._early
            if early_name == name and since_ms is not None and early_ms <= since_ms:
                await task
                return
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.window, self.events = Window(self.window.read_at_ms), []
            self.counts.clear()
        await self._read(name, since_ms)

    async def _read(self, name: str, since_ms: int | None) -> None:
        since_ms = None if since_ms is None else max(0, since_ms)
        pages = self._channel.history(name, since_ms=since_ms, forwards=True)
        async with aclosing(pages) as walk:
            async for page in walk:
                events = list(decode_all(page))
                self.window.add_page(page)
                self.events.extend(events)
                self.counts += ignored(page, events)

    def shows(self, until: str | None) -> bool:
        """Whether history may be taken to reach *until*: it shows it, or had time to."""
        if until is None:
            return True
        newest = self.window.newest_serial
        if newest is not None and at_or_before(until, newest):
            return True
        until_ms = serial_time_ms(until)
        return until_ms is None or until_ms + HISTORY_LAG_MS <= self.window.read_at_ms
