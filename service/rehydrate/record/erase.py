"""Erase: leave of a conversation a tombstone without content, and see to it that it stays so.

The tombstone outlives what the channel keeps. It is written under the lock that recorders and
publishers take, and whoever reads, records or follows drops what it covers (law 8). A publisher
finds its response gone at its next checkpoint, and is fenced.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import aclosing
from typing import TYPE_CHECKING

from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.window import read_from_ms
from rehydrate.errors import ChannelUnavailable, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from rehydrate.context import Context
    from rehydrate.ports import ChannelLog, Conversation

_log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 10.0
"""How long an erasure asks the channel which responses are going on."""

MOST_NAMED = 10_000
WATCH_EVERY_S = 1.0


async def erase(
    ctx: Context,
    conversation_id: str,
) -> None:
    """Erase all that was said in a conversation until now; doing it again changes nothing more.

    What is said of its responses from now on belongs to them and is erased, too. What is new
    begins the conversation anew.

    Raises:
        StoreUnavailable: Postgres does not answer; nothing is erased.
    """
    check_conversation_id(conversation_id)
    row = await ctx.store.conversation(conversation_id)
    name = row.channel if row else ctx.default_channel(conversation_id)
    now_ms = ctx.now_ms()
    seen = _Seen()
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            await seen.look(ctx.channel, name, row)
    except (ChannelUnavailable, TimeoutError):
        _log.warning("a conversation is erased without asking its channel")
        seen.newest_ms = max(seen.newest_ms, now_ms)
    if row is None and not seen.newest_ms:
        return  # nobody has said anything in it
    async with ctx.store.locked(conversation_id, name) as held:
        await held.erase(max(now_ms, seen.newest_ms), seen.ids)


class _Seen:
    """What the channel shows that is not recorded."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.newest_ms = 0

    async def look(self, channel: ChannelLog, name: str, row: Conversation | None) -> None:
        since_ms = read_from_ms(row.watermark) if row else None
        async with aclosing(channel.history(name, since_ms=since_ms)) as pages:
            async for page in pages:
                times = [message.timestamp_ms for message in page]
                self.newest_ms = max([self.newest_ms, *times])
                said = {event.message_id for event in decode_all(page) if event.kind != "prompt"}
                self.ids |= {message_id for message_id in said if message_id is not None}
                if len(self.ids) > MOST_NAMED:
                    return


class ErasureWatch:
    """Notices what other processes have erased of the conversations that are kept in memory here.

    Args:
        kept: which are kept.
        find: those of them that were erased, and up to when.
        forget: called with one that was erased since it was kept.
    """

    def __init__(
        self,
        kept: Callable[[], Collection[str]],
        find: Callable[[Collection[str]], Awaitable[dict[str, int]]],
        forget: Callable[[str], None],
        *,
        every_s: float = WATCH_EVERY_S,
    ) -> None:
        self._kept = kept
        self._find = find
        self._forget = forget
        self._every_s = every_s
        self._known: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look."""
        self._task = self._task or asyncio.create_task(self._run(), name="erasure watch")

    async def close(self) -> None:
        """Stop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> None:
        """Look once.

        Raises:
            StoreUnavailable: Postgres does not answer.
        """
        kept = list(self._kept())
        found = await self._find(kept) if kept else {}
        # one that is kept since the last look may have been read before it was erased: once more
        for conversation_id, at_ms in found.items():
            if self._known.get(conversation_id) != at_ms:
                self._forget(conversation_id)
        self._known = found

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            try:
                await self.look()
            except StoreUnavailable:
                continue  # nobody can erase anything either
            except Exception as error:  # noqa: BLE001 - one fault of ours does not end the watch
                _log.error("looking for erasures: %s", type(error).__name__)
