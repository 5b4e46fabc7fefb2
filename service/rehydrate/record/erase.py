"""Erase: replace a conversation by a tombstone without content.

The tombstone outlives everything that the channel retains. It is written under the lock that
recorders and publishers take, and every reader, recorder and follower drops the events that it
covers (law 8). A publisher finds its response erased at its next checkpoint, and is fenced. Whatever
publishes text of the store needs a permit (`rehydrate.permits`), which the tombstone ends.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.window import read_from_ms
from rehydrate.errors import ChannelUnavailable
from rehydrate.permits import PERMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rehydrate.context import Context
    from rehydrate.ports import ChannelLog, Conversation

_log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
"""How long an erasure reads the channel for responses that are not recorded."""

MAX_IDS = 10_000
"""How many messages that are not recorded a tombstone names."""


async def erase(
    ctx: Context, conversation_id: str, notify: Iterable[Callable[[str], object]] = ()
) -> None:
    """Erase everything published in a conversation until now. Repeating it changes nothing more.

    Later events of responses that began before the erasure, and answers to erased prompts, are
    dropped as well. New messages, with new ids, begin the conversation again. When it returns, no
    text of the conversation is published from the store any more, in any process.

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation.
        notify: called with its id as soon as it is erased in the store.

    Raises:
        StoreUnavailable: Postgres does not answer; nothing is erased.
    """
    check_conversation_id(conversation_id)
    row = await ctx.store.conversation(conversation_id)
    name = row.channel if row else ctx.default_channel(conversation_id)
    now_ms = ctx.now_ms()
    unrecorded = _Unrecorded()
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await unrecorded.read(ctx.channel, name, row)
    except (ChannelUnavailable, TimeoutError):
        _log.warning("a conversation is erased without reading its channel")
        unrecorded.newest_ms = max(unrecorded.newest_ms, now_ms)
    if row is None and not unrecorded.newest_ms:
        return  # neither the store nor the channel has anything to erase
    async with ctx.store.locked(conversation_id, name) as locked:
        await locked.erase(max(now_ms, unrecorded.newest_ms), unrecorded.ids)
    for each in notify:
        each(conversation_id)
    await asyncio.sleep(PERMIT_S)  # until the last permit has run out


class _Unrecorded:
    """The messages on the channel that are not recorded.

    Attributes:
        ids: their ids.
        newest_ms: the time of the newest channel message, in ms since 1970; 0 if there is none.
    """

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.newest_ms = 0

    async def read(self, channel: ChannelLog, name: str, row: Conversation | None) -> None:
        since_ms = read_from_ms(row.watermark) if row else None
        async with aclosing(channel.history(name, since_ms=since_ms)) as pages:
            async for page in pages:
                times = [message.timestamp_ms for message in page]
                self.newest_ms = max([self.newest_ms, *times])
                shown = {event.message_id for event in decode_all(page)}
                self.ids |= {message_id for message_id in shown if message_id is not None}
                if len(self.ids) > MAX_IDS:
                    return
