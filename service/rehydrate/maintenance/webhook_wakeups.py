"""Webhook wake-ups: map the channels that Ably's webhooks name to conversations, and wake these.

A webhook only wakes the recorder; what is recorded is read from the channel. A lost, repeated, late
or forged webhook therefore changes nothing but the time at which that happens.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from rehydrate.background import PeriodicTask, log_failure
from rehydrate.core.positions import check_conversation_id
from rehydrate.errors import BadParameter, StoreUnavailable
from rehydrate.limits import BoundedCache

_log = logging.getLogger(__name__)

MAX_WAITING = 10_000
MAX_CACHED = 10_000


class WebhookWakeups:
    """Wakes the conversations of announced channels; repeated announcements are one wake-up.

    Args:
        find: look up the conversations whose rows name these channels, by channel.
        by_template: return the conversation to which the template assigns a channel without a row;
            None if the template does not match.
        wake: called with each conversation.

    Attributes:
        dropped: how many announcements named a channel that cannot be a conversation's.
    """

    def __init__(
        self,
        find: Callable[[Collection[str]], Awaitable[dict[str, str]]],
        by_template: Callable[[str], str | None],
        wake: Callable[[str], None],
    ) -> None:
        self._find = find
        self._by_template = by_template
        self._wake = wake
        self._conversations: BoundedCache[str, str] = BoundedCache(MAX_CACHED)
        self._waiting: dict[str, None] = {}
        self.dropped = 0
        self.task = PeriodicTask("webhook wake-ups", self._look_up_waiting)

    @property
    def full(self) -> bool:
        """Whether the queue is full."""
        return len(self._waiting) >= MAX_WAITING

    def announce(self, channels: Iterable[str]) -> None:
        """Wake the conversations of *channels*, which have new messages; return at once."""
        for channel in channels:
            conversation_id = self._conversations.get(channel)
            if conversation_id is not None:
                self._wake(conversation_id)
            elif not self.full:
                self._waiting[channel] = None
        if self._waiting:
            self.task.wake()

    def open(self) -> None:
        """Start looking up the announced channels."""
        self.task.open()

    async def close(self) -> None:
        """Stop; channels that wait are dropped."""
        await self.task.close()

    async def _look_up_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        try:
            rows = await self._find(waiting)
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, StoreUnavailable):
                self._waiting = waiting | self._waiting  # an outage, or the task was cancelled
            raise
        for channel in waiting:
            self._wake_one(channel, rows.get(channel))

    def _wake_one(self, channel: str, conversation_id: str | None) -> None:
        if conversation_id is not None:  # a row keeps its channel; a channel may yet get a row
            self._conversations[channel] = conversation_id
        else:
            conversation_id = self._by_template(channel)
        if conversation_id is None:
            return
        try:
            self._wake(check_conversation_id(conversation_id))
        except BadParameter as error:
            self.dropped += 1
            log_failure(_log, "dropped the announcement of a channel without a valid id", error)
