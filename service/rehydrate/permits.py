"""Permits to publish stored text, so that no erased text is published after its erasure was answered.

A replay, a repair, a sweep and `verify` read a text from the store and publish it a little later. If
the conversation is erased in between, the text must not return to the channel. A check before the
publish is not enough: the publish may then wait for its turn, and the store may be away. So text is
published only within `PERMIT_S` after the store was asked, and answered that the text is still
there; `erase` answers `PERMIT_S` after it wrote its tombstone. Both measure monotonic time, so the
order holds whatever the clocks and the connections of the two processes do::

    publisher   asks the store ── answer ──── last publish ┤
    eraser           tombstone ──────────────────────────── answers the DELETE
                     └──────────────── PERMIT_S ───────────┘

What is not text needs no permit: an erased stream still gets its ``stop``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rehydrate.errors import ChannelUnavailable, RehydrateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rehydrate.core.event import Event
    from rehydrate.ports import ChannelPublisher, Conversation, Conversations

PERMIT_S = 1.0
"""How long after the store was asked stored text may be published; and how long `erase` waits."""


class TextErased(RehydrateError):
    """The text to be published was erased."""

    code = "erased"
    title = "Erased"


class PermitExpired(ChannelUnavailable):
    """A publish waited longer than its permit was valid, for its turn or for a connection.

    It was not sent, or not sent again after a connection was lost before the acknowledgement.
    """


class PublishPermit:
    """Permission to publish text of the store, renewed by asking the store.

    Args:
        ask: ask the store; return False if the text was erased.

    Attributes:
        erased: the text was erased, so this permit is never valid again.
    """

    def __init__(self, ask: Callable[[], Awaitable[bool]]) -> None:
        self._ask = ask
        self._until_s = float("-inf")
        self.erased = False

    def is_valid(self) -> bool:
        """Return True if text may be published at this moment."""
        return asyncio.get_running_loop().time() < self._until_s

    async def renew(self) -> None:
        """Ask the store.

        Raises:
            TextErased: the text was erased.
            StoreUnavailable: Postgres does not answer; the permit stays as it was.
        """
        asked_s = asyncio.get_running_loop().time()
        if not await self._ask():
            self.erased, self._until_s = True, float("-inf")
            raise TextErased("the text was erased")
        self._until_s = asked_s + PERMIT_S

    async def publish(self, queue: ChannelPublisher, events: Sequence[Event]) -> None:
        """Publish *events* together, and return when they are acknowledged.

        The caller limits how long this may take.

        Raises:
            TextErased: the text was erased; nothing was published.
            StoreUnavailable: Postgres does not answer; nothing was published.
            ChannelUnavailable: Ably refuses them, or does not acknowledge them.
        """
        while True:
            await self.renew()
            try:
                await queue.post_batch(events, is_permitted=self.is_valid)
            except PermitExpired:
                continue
            return


def permit_of(store: Conversations, conversation: Conversation) -> PublishPermit:
    """Return the permit to publish text that was read when the row was *conversation*.

    Any later erasure covers that text, since it has a later time; other members may differ.
    """
    erased_ms = _erased_ms(conversation)

    async def ask() -> bool:
        now = await store.conversation(conversation.id)
        return now is not None and _erased_ms(now) == erased_ms

    return PublishPermit(ask)


def _erased_ms(conversation: Conversation) -> int | None:
    return None if conversation.tombstone is None else conversation.tombstone.timestamp_ms
