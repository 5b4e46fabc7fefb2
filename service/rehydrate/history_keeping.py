"""The part of the library's front door through which conversations are written."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from rehydrate.errors import Busy
from rehydrate.maintenance.verify import Verified, verify
from rehydrate.publish.respond import Response, respond
from rehydrate.record.catch_up import Recorded, catch_up
from rehydrate.record.erase import erase
from rehydrate.record.import_messages import store_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from rehydrate.context import Context
    from rehydrate.follow.subscriptions import Subscriptions
    from rehydrate.maintenance.tasks import Maintenance
    from rehydrate.ports import ChannelLog
    from rehydrate.record.import_messages import NewMessage, StoreResult


class Keeping:
    """Who publishes, records and erases; a base of `rehydrate.History`."""

    _ctx: Context
    _channel: ChannelLog
    _following: Subscriptions
    _upkeep: Maintenance
    _observe: Callable[[str, str, int], None]

    @asynccontextmanager
    async def respond(
        self,
        conversation_id: str,
        response_id: str,
        *,
        prompt_id: str | None = None,
        metadata: Any = None,
        ephemeral: bool = False,
    ) -> AsyncIterator[Response]:
        """Publish the response *response_id*, written in the block; it ends with the block.

        *ephemeral*: Ably keeps none of its content, only its start and its end; what a reader who
        joins is given rests on checkpoints, half a second apart.

        Raises:
            Conflict: it has ended already, or its publisher is alive.
            Fenced: it was taken over, ended or erased meanwhile.
            StoreUnavailable: Postgres did not answer for 30 s; the text is not committed.
            ChannelUnavailable: the text is committed, but Ably did not acknowledge the end.
        """
        published = respond(
            self._ctx,
            conversation_id,
            response_id,
            prompt_id=prompt_id,
            metadata=metadata,
            ephemeral=ephemeral,
        )
        async with published as response:
            self._attend(conversation_id)
            yield response
        self._attend(conversation_id)

    async def catch_up(self, conversation_id: str) -> Recorded:
        """Fold what the channel says since the watermark into the store.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not answer.
        """
        await self._channel.sync_clock()  # what is written down must not be by a wrong clock
        recorded = await catch_up(self._ctx, conversation_id)
        for outcome, count in recorded.counts.items():
            self._observe("outcome", outcome, count)
        return recorded

    async def erase(self, conversation_id: str) -> None:
        """Erase all that was said in a conversation until now, for good.

        Raises:
            StoreUnavailable: Postgres does not answer; nothing is erased.
        """
        await erase(self._ctx, conversation_id)
        self._following.changed(conversation_id)

    async def store_messages(
        self, conversation_id: str, messages: Sequence[NewMessage]
    ) -> StoreResult:
        """Store finished messages, all or none; the same again changes nothing.

        Raises:
            Conflict: one is there with other content, or is being published.
        """
        result = await store_messages(self._ctx, conversation_id, messages)
        if result.stored:
            self._following.changed(conversation_id)
        return result

    def _attend(self, conversation_id: str) -> None:
        self._upkeep.attend(conversation_id)

    def hear(self, channels: Collection[str]) -> None:
        """Something was said on *channels*: record their conversations, soon; returns at once.

        Raises:
            Busy: so much waits to be recorded that this was not noted.
        """
        if self._upkeep.busy:
            raise Busy("recording queue is full; retry later")
        self._upkeep.announce(channels)

    async def verify(self, conversation_id: str, *, mend: bool = False) -> Verified:
        """Compare what is stored with what the channel still shows; *mend* what differs.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not answer; what was mended stays.
        """
        verified = await verify(self._ctx, conversation_id, record=self.catch_up, mend=mend)
        if any(finding.mended for finding in verified.findings):
            self._following.changed(conversation_id)
        return verified
