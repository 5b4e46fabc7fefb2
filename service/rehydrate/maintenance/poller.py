"""Which conversations to record: what a channel's rules announce, and what nobody announced.

Announcements only wake: what is recorded is read from the channel. So a lost, repeated, late or
forged one changes nothing but when that happens.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from typing import TYPE_CHECKING

from rehydrate.errors import RehydrateError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

_log = logging.getLogger(__name__)

MOST_HEARD = 10_000
MOST_KNOWN = 10_000
MOST_ATTENDED = 10_000
_RETRY_S = 1.0


class WebhookWakeups:
    """Wakes the conversations whose channels are announced; many announcements are one waking.

    Args:
        find: the conversations whose rows name channels, by channel.
        by_template: the conversation that a channel without a row would belong to; None: none.
        wake: called with each conversation.
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
        self._known: OrderedDict[str, str] = OrderedDict()
        self._heard: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether so many wait that no more are taken."""
        return len(self._heard) >= MOST_HEARD

    def hear(self, channels: Iterable[str]) -> None:
        """Something was said on *channels*; returns at once."""
        for channel in channels:
            if channel in self._known:
                self._wake(self._known[channel])
            elif not self.full:
                self._heard[channel] = None
        if self._heard and self._task is None:
            self._task = asyncio.create_task(self._resolve(), name="announcements")

    async def close(self) -> None:
        """Forget what waits."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _resolve(self) -> None:
        while self._heard:
            heard, self._heard = self._heard, {}
            try:
                rows = await self._find(heard)
            except StoreUnavailable:
                for channel in heard:
                    self._heard.setdefault(channel)
                await asyncio.sleep(_RETRY_S * random.uniform(1, 2))  # noqa: S311 - jitter
                continue
            for channel in heard:
                self._wake_on(channel, rows.get(channel))
        self._task = None

    def _wake_on(self, channel: str, conversation_id: str | None) -> None:
        if conversation_id is not None:  # a row's channel is for good; what has none may get one
            self._known[channel] = conversation_id
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        else:
            conversation_id = self._by_template(channel)
        if conversation_id is not None:
            self._wake(conversation_id)


class Poller:
    """Goes round, now and then, and wakes what may not have been announced.

    That is what somebody here published, read or followed within *for_s*, and what *find* gives.

    Args:
        find: conversations that nobody has read for a while, though something may go on in them.
        wake: called with each.
        every_s: how often.
        for_s: how long a conversation is attended to after it was last spoken of here.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[list[str]]],
        wake: Callable[[str], None],
        *,
        every_s: float,
        for_s: float,
    ) -> None:
        self._find = find
        self._wake = wake
        self._every_s = every_s
        self._for_s = for_s
        self._until_s: OrderedDict[str, float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def attend(self, conversation_id: str) -> None:
        """Something goes on in a conversation: wake it, and look after it for a while."""
        self._wake(conversation_id)
        self._until_s[conversation_id] = asyncio.get_running_loop().time() + self._for_s
        self._until_s.move_to_end(conversation_id)
        if len(self._until_s) > MOST_ATTENDED:
            self._until_s.popitem(last=False)

    def open(self) -> None:
        """Begin."""
        self._task = self._task or asyncio.create_task(self._run(), name="rounds")

    async def close(self) -> None:
        """Stop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            now_s = asyncio.get_running_loop().time()
            for conversation_id, until_s in list(self._until_s.items()):
                self._wake(conversation_id)
                if until_s < now_s:
                    del self._until_s[conversation_id]
            try:
                for conversation_id in await self._find():
                    self._wake(conversation_id)
            except Exception as error:  # noqa: BLE001 - one fault of ours ends no rounds
                level = logging.WARNING if isinstance(error, RehydrateError) else logging.ERROR
                _log.log(level, "a round was cut short: %s", type(error).__name__)
