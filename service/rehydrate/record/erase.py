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
from rehydrate.core.window import ErasedStream, place_of, read_from_ms
from rehydrate.errors import ChannelUnavailable
from rehydrate.permits import PERMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rehydrate.context import Context
    from rehydrate.ports import ChannelLog, Conversation, Stored

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
    stored = await ctx.store.load(conversation_id, limit=1, before=None)
    row = stored.conversation
    name = row.channel if row else ctx.default_channel(conversation_id)
    # The time is taken before the channel is read: the read shows the ids of all responses that began
    # before that time, so that their later events are erased too. A response that begins during the
    # read stays whole, unless the read shows it. A later time would erase only its first tokens.
    now_ms = ctx.now_ms()
    unrecorded = _Unrecorded(_open_stream(stored), ctx.token_names)
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await unrecorded.read(ctx.channel, name, row)
    except (ChannelUnavailable, TimeoutError):
        _log.warning("a conversation is erased without reading its channel")
        unrecorded.newest_ms = max(unrecorded.newest_ms, now_ms)
    if row is None and not unrecorded.newest_ms:
        return  # neither the store nor the channel has anything to erase
    async with ctx.store.locked(conversation_id, name) as locked:
        at_ms = max(now_ms, unrecorded.newest_ms)
        await locked.erase(at_ms, unrecorded.ids, unrecorded.stream)
    for each in notify:
        each(conversation_id)
    await asyncio.sleep(PERMIT_S)  # until the last permit has run out


def _open_stream(stored: Stored) -> ErasedStream | None:
    """Return the open anonymous message as the stream that is erased with it."""
    open_ = [state for state in stored.open if state.anonymous]
    if not open_:
        return None
    newest = max(open_, key=lambda state: state.position or "")
    return ErasedStream(newest.serial or newest.position or "", is_open=True)


class _Unrecorded:
    """The messages on the channel that are not recorded.

    Args:
        stream: the anonymous stream that is open in the store.
        token_names: further names that mean ``token``.

    Attributes:
        ids: their ids.
        newest_ms: the time of the newest channel message, in ms since 1970; 0 if there is none.
        stream: the newest anonymous stream, recorded or not.
    """

    def __init__(self, stream: ErasedStream | None, token_names: frozenset[str]) -> None:
        self.ids: set[str] = set()
        self.newest_ms = 0
        self.stream = stream
        self._token_names = token_names

    async def read(self, channel: ChannelLog, name: str, row: Conversation | None) -> None:
        since_ms = read_from_ms(row.watermark) if row else None
        async with aclosing(channel.history(name, since_ms=since_ms)) as pages:
            async for page in pages:
                times = [message.timestamp_ms for message in page]
                self.newest_ms = max([self.newest_ms, *times])
                for event in decode_all(page, self._token_names):
                    if event.message_id is not None:
                        self.ids.add(event.message_id)
                    elif event.version is None and event.kind != "cancel":
                        self._note(ErasedStream(place_of(event), event.kind != "stop"))
                if len(self.ids) > MAX_IDS:
                    return

    def _note(self, seen: ErasedStream) -> None:
        if self.stream is None or seen.through >= self.stream.through:
            self.stream = seen
