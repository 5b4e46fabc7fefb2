"""The channel of a conversation: the one in its row, else the one that the template gives it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rehydrate.background import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_KNOWN = 10_000

ABSENT_FOR_S = 1.0
"""How long a missing row is remembered. A page that opens a new chat needs the channel several times
within a second, for the access check and for the answer. A row that another process creates in the
meantime has the same channel, unless that process runs with another template."""


class ChannelNames:
    """Channel names by conversation, cached; simultaneous lookups of one share a query.

    A row's channel never changes, so it is cached without a time limit.

    Args:
        look: returns the channel in a conversation's row; None if it has no row.
        by_template: returns the channel of a conversation without a row.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[str | None]],
        by_template: Callable[[str], str],
    ) -> None:
        self._look = look
        self._by_template = by_template
        self._known = BoundedCache[str, str](MAX_KNOWN)
        self._absent_until_s = BoundedCache[str, float](MAX_KNOWN)
        self._looking: dict[str, asyncio.Task[str | None]] = {}

    async def of(self, conversation_id: str) -> str:
        """Return the channel of a conversation; raises what the query raises."""
        name = self._known.get(conversation_id)
        if name is None and not self._is_absent(conversation_id):
            name = await self._found(conversation_id)
        if name is None:
            return self._by_template(conversation_id)
        self._known[conversation_id] = name
        return name

    async def close(self) -> None:
        """Cancel the queries that are running."""
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def _is_absent(self, conversation_id: str) -> bool:
        until_s = self._absent_until_s.get(conversation_id)
        return until_s is not None and asyncio.get_running_loop().time() < until_s

    async def _found(self, conversation_id: str) -> str | None:
        task = self._looking.get(conversation_id)
        if task is None:
            task = asyncio.create_task(self._look_for(conversation_id), name="naming a channel")
            self._looking[conversation_id] = task
            task.add_done_callback(lambda _: self._looking.pop(conversation_id, None))
        return await asyncio.shield(task)  # others may be waiting for the same query

    async def _look_for(self, conversation_id: str) -> str | None:
        name = await self._look(conversation_id)
        if name is None:
            until_s = asyncio.get_running_loop().time() + ABSENT_FOR_S
            self._absent_until_s[conversation_id] = until_s
        else:
            self._absent_until_s.pop(conversation_id)
        return name
