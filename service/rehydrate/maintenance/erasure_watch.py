"""Erasure watch: notice what other processes have erased of the conversations in memory here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from rehydrate.background import PeriodicTask

WATCH_EVERY_S = 1.0


class ErasureWatch:
    """Queries the store for erasures of the conversations that are kept in memory.

    Args:
        kept: the ids of those conversations.
        find: those of them that were erased, and up to which time, in ms since 1970.
        invalidate: called with each that was erased since it was read.
        every_s: the interval, in seconds.
    """

    def __init__(
        self,
        kept: Callable[[], Collection[str]],
        find: Callable[[Collection[str]], Awaitable[dict[str, int]]],
        invalidate: Callable[[str], None],
        *,
        every_s: float = WATCH_EVERY_S,
    ) -> None:
        self._kept = kept
        self._find = find
        self._invalidate = invalidate
        self._known: dict[str, int] = {}
        self.task = PeriodicTask("erasure watch", self.check, every_s=every_s)

    def open(self) -> None:
        """Start watching."""
        self.task.open()

    async def close(self) -> None:
        """Stop watching."""
        await self.task.close()

    async def check(self) -> None:
        """Query the store once.

        Raises:
            StoreUnavailable: Postgres does not answer.
        """
        kept = list(self._kept())
        found = await self._find(kept) if kept else {}
        # a conversation that is new in memory may have been read before it was erased, so an
        # erasure that is new *to this watch* always counts
        for conversation_id, at_ms in found.items():
            if self._known.get(conversation_id) != at_ms:
                self._invalidate(conversation_id)
        self._known = found
