"""The part of the library's front door through which conversations are followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from rehydrate.following import Follower, Following
    from rehydrate.told import FollowEvent


class Joining:
    """Who follows conversations; a base of `rehydrate.History`."""

    _following: Following

    async def follow(self, conversation_id: str, *, limit: int = 50) -> AsyncGenerator[FollowEvent]:
        """Yield a snapshot (as `hydrate` answers), then what is live, each once and in order.

        When messages may have been missed, ``again`` comes, and a new snapshot instead of them.
        *limit*: finished messages of a snapshot, the newest. It does not end by itself.

        Raises:
            BadParameter: an argument is outside its syntax or range.
            StoreUnavailable: Postgres does not answer when it begins.
            ChannelRefused: Ably does not let us attach.
        """
        async with self.joined(conversation_id, limit=limit) as follower:
            async for event in follower:
                yield event

    def joined(
        self, conversation_id: str, *, limit: int = 50, after: str | None = None
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow, as `follow` does, for as long as the block runs.

        *after*: the id of the last event that was received, to go on behind it where that can be.
        """
        return self._following.joined(conversation_id, limit=limit, after=after)
