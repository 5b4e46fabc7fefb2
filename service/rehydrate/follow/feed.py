"""One followed conversation: attached once, and told to however many follow it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from rehydrate.core.client_view import Verdict
from rehydrate.core.codecs import decode
from rehydrate.core.positions import channel_serial
from rehydrate.core.text.append_chains import AppendChains
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.follow.live_conversation import FollowedReplays
from rehydrate.follow.resync import FollowOptions, Resync, pause_s
from rehydrate.ports import Discontinuity

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.context import Context
    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.live_conversation import Change
    from rehydrate.hydrate.history_window import Prefetch
    from rehydrate.ports import Subscription

_log = logging.getLogger(__name__)

_HEARD_S = 2.0
"""How lately the connection must have answered, where nothing else shows that it is alive."""


class Feed(Resync):
    """One conversation, followed.

    Args:
        conversation_id: which.
        ctx: the adapters and limits.
        terms: how to follow.
        noticed: called with the conversation when something has begun or ended in it.
        prefetch: returns the history to start reading while the store answers, if it is known.

    Attributes:
        counts: what became of the messages that were delivered.
        followers: how many there are.
        cancels: by the response that a ``cancel`` names, what is set when one comes.
    """

    def __init__(
        self,
        ctx: Context,
        conversation_id: str,
        *,
        terms: FollowOptions,
        noticed: Callable[[str], None],
        prefetch: Callable[[str], Prefetch | None],
    ) -> None:
        super().__init__(
            ctx,
            conversation_id,
            terms=terms,
            noticed=noticed,
            prefetch=prefetch,
        )
        self.counts: Counter[str] = Counter()
        self.followers = 0
        self.cancels: dict[str | None, asyncio.Event] = {}
        self._heard_ms = 0
        self._replays = FollowedReplays(ctx.agents)
        self._chains = AppendChains()

    def open(self) -> None:
        """Begin to follow."""
        self._following = self._guarded(self._follow(), "following a conversation")

    async def close(self) -> None:
        """Detach; followers end."""
        self.closed = True
        self.wake()
        tasks = [task for task in (self._mending, self._following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def snapshot(self, limit: int) -> FollowEvent | None:
        """A snapshot; None as long as nothing was read."""
        if self.conversation is None:
            return None
        standing = self.conversation
        return self.buffer.snapshot(
            limit, lambda size: standing.answer(size, self._ctx.now_ms()).body
        )

    def resume_from(self, id_: str) -> int | None:
        """The place behind which somebody goes on who has received *id_*; None: it cannot."""
        number = self.buffer.number_of(id_)
        if number is None or self._replays.running_since_before(number):
            return None
        return number

    def read_if_quiet(self, since_ms: int) -> None:
        """Read again if something is open, and nothing was heard, or read so, after *since_ms*."""
        quiet = self._heard_ms < since_ms
        if quiet and self.conversation is not None and self.conversation.is_open:
            self._heard_ms = self._ctx.now_ms()
            self.read_again()

    async def is_up_to_date(self, until: str | None) -> bool:
        """Whether all was heard up to *until*, or, without it, up to 2 s ago."""
        if not self._whole:
            return False
        if until is not None:
            serial = self.recent.serial
            return serial is not None and channel_serial(serial) >= channel_serial(until)
        live = self._live
        return live is not None and await live.alive_within(_HEARD_S) and self._whole

    @property
    def _whole(self) -> bool:
        return self._live is not None and self.conversation is not None and self._mending is None

    # -- attached ---------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Attach and listen, again and again."""
        self._name = await self._ctx.channel_of(self.conversation_id)
        attempt = 0
        while True:
            try:
                async with self._ctx.channel.subscribe(
                    self._name, rewind=f"{self._terms.rewind_s}s", capacity=self._terms.capacity
                ) as live:
                    attempt = 0
                    await self._listen(live)
            except ChannelRefused:
                raise
            except ChannelUnavailable as error:
                _log.warning("following a conversation: %s", error)
            self._live = None
            self.recent.detached()
            self._lose()
            attempt += 1
            await asyncio.sleep(pause_s(attempt))

    async def _listen(self, live: Subscription) -> None:
        self._live = live
        self._attached()
        self._reread = True
        self._mend(anew=True)
        async for item in live:
            if isinstance(item, Discontinuity):
                _log.info("messages of a conversation may have been missed: %s", item.reason)
                self._attached()
                self._lose()
            else:
                self._hear(item)
                if live.idle:
                    self._wake_now()

    def _attached(self) -> None:
        self._heard_ms = self._ctx.now_ms()
        self.recent.attached(self._heard_ms)
        self._chains = AppendChains()

    def _lose(self) -> None:
        """Messages may have been missed: tell so, and read again."""
        if self.conversation is not None and not self._lost:
            self._lost = True
            self.buffer.append("again")
            self.wake()
        self._reread = True
        self._mend(anew=True)

    def _hear(self, message: ChannelMessage) -> None:
        self._heard_ms = self._ctx.now_ms()
        if not self.recent.count_delivery(message) and self._by_rewind:
            self._by_rewind = False  # what it was taken for has not been: history must say
            self._mend()
        event = decode(message)
        if event is None:
            self.counts["ignored"] += 1
        elif event.kind == "cancel":
            if event.message_id in self.cancels:
                self.cancels[event.message_id].set()
        elif event.replay_of is not None:
            started = self._replays.apply(event, self.buffer.number + 1)
            if started is not None:
                self.buffer.append(_told_as(event), event, event.message_id, started)
                self.wake()
        else:
            self._hear_whole(event)

    def _hear_whole(self, event: Event) -> None:
        """Take *event*; of a channel message that grows, all that this attachment was told of it."""
        whole = self._chains.whole(event)
        if whole is not None:
            self.recent.append(whole)
            self._take(whole)
        elif self.conversation is not None and self.conversation.names_message_of(event):
            raise ChannelUnavailable("something was appended to what was never delivered")
        else:
            self.counts["ignored"] += 1

    def _take(self, event: Event) -> None:
        if self.conversation is None or (self._mending is not None and not self._may_go_on(event)):
            return
        taken = self.conversation.apply(event)
        self.counts[taken.verdict.value] += 1
        if taken.emitted:
            self._tell(taken)
        elif taken.verdict is Verdict.AGAIN:
            self._stuck.add(event.message_id)
            self._mend()

    def _may_go_on(self, event: Event) -> bool:
        """Whether *event* may be taken while something is missing: mere text without seq may not."""
        placed = event.seq is not None or event.version is not None or event.kind == "prompt"
        return placed and event.message_id not in self._stuck

    def _tell(self, taken: Change) -> None:
        for event in taken.emitted:
            self.buffer.append(_told_as(event), event, taken.message_id)
            if event.kind in ("prompt", "start", "stop"):
                self._noticed(self.conversation_id)
        self.wake()


def _told_as(event: Event) -> str:
    return "token" if event.kind == "void" else event.kind
