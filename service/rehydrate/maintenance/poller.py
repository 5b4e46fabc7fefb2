"""Poller: wake conversations that may have new messages which no webhook announced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rehydrate.background import PeriodicTask
from rehydrate.limits import BoundedCache

MAX_ATTENDED = 10_000


class Poller:
    """Periodically wakes the conversations in use here, and those that *find* returns.

    In use are those that this process published, read or followed within *for_s*.

    Args:
        find: return conversations that were not read for a while and may have new messages.
        wake: called with each conversation.
        every_s: the interval, in seconds.
        for_s: how long a conversation is polled after its last use, in seconds.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[list[str]]],
        wake: Callable[[str], None],
        *,
        every_s: float,
        for_s: float,
    ) -> None:
        self._find = find
        self._wake = wake
        self._for_s = for_s
        self._until_s: BoundedCache[str, float] = BoundedCache(MAX_ATTENDED)
        self.task = PeriodicTask("poller", self._poll, every_s=every_s)

    def attend(self, conversation_id: str) -> None:
        """Wake a conversation that is in use now, and poll it for a while."""
        self._wake(conversation_id)
        self._until_s[conversation_id] = asyncio.get_running_loop().time() + self._for_s

    def open(self) -> None:
        """Start polling."""
        self.task.open()

    async def close(self) -> None:
        """Stop polling."""
        await self.task.close()

    async def _poll(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for conversation_id, until_s in list(self._until_s.items()):
            self._wake(conversation_id)
            if until_s < now_s:
                self._until_s.pop(conversation_id)
        for conversation_id in await self._find():
            self._wake(conversation_id)
