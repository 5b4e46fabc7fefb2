"""Which channel a conversation has: its row's, for good; else by template."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_KNOWN = 10_000


class ChannelNames:
    """The names of channels, by conversation. Many who ask at once cost one look.

    Args:
        look: the name in the conversation's row; None if it has no row.
        by_template: the name of one that has no row.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[str | None]],
        by_template: Callable[[str], str],
    ) -> None:
        self._look = look
        self._by_template = by_template
        self._known: OrderedDict[str, str] = OrderedDict()
        self._looking: dict[str, asyncio.Task[str | None]] = {}

    async def of(self, conversation_id: str) -> str:
        """The channel of a conversation; raises what looking raises."""
        name = self._known.get(conversation_id)
        if name is None:
            name = await self._found(conversation_id)
        if name is None:
            return self._by_template(conversation_id)
        self._known[conversation_id] = name
        self._known.move_to_end(conversation_id)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return name

    async def close(self) -> None:
        """Stop looking."""
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    async def _found(self, conversation_id: str) -> str | None:
        task = self._looking.get(conversation_id)
        if task is None:
            task = asyncio.create_task(self._look_for(conversation_id), name="naming a channel")
            self._looking[conversation_id] = task
            task.add_done_callback(lambda _: self._looking.pop(conversation_id, None))
        return await asyncio.shield(task)  # who gives up must not take it from the others

    async def _look_for(self, conversation_id: str) -> str | None:
        return await self._look(conversation_id)
