"""The part of the library's front door through which conversations are followed."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from rehydrate.follow.subscriptions import PromptWatcher
from rehydrate.publish.unanswered import unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from rehydrate.context import Context
    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.subscriptions import Follower, Subscriptions
    from rehydrate.publish.unanswered import Prompt
    from rehydrate.record.catch_up import Recorded


class Joining:
    """Who follows conversations; a base of `rehydrate.History`."""

    _following: Subscriptions
    _ctx: Context

    if TYPE_CHECKING:

        async def catch_up(self, conversation_id: str) -> Recorded:
            """Kept by another base of `rehydrate.History`."""
            ...

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

    async def unanswered(
        self, conversation_id: str, *, wait: bool = False
    ) -> AsyncGenerator[Prompt]:
        """Yield the prompts that no response answers, in order, each once: what an agent has to do.

        A prompt is answered by a response with its id as ``prompt_id``. While you work on one, no
        other agent gets it; if you die, it comes free within 30 s. One that you leave without a
        response is offered to the next agent that asks. *wait*: go on with those that are sent
        later, for ever.

        Raises:
            BadParameter: *conversation_id* is outside its syntax.
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not answer.
        """
        async with AsyncExitStack() as stack:
            news = None
            if wait:
                follower = await stack.enter_async_context(self.joined(conversation_id, limit=1))
                news = PromptWatcher(follower).wait
            prompts = unanswered(self._ctx, conversation_id, record=self.catch_up, wait=news)
            async with aclosing(prompts):
                async for prompt in prompts:
                    yield prompt
