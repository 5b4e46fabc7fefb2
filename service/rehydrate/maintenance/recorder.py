"""Recorder: catch up conversations with their channels when they are woken."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rehydrate.background import PeriodicTask, jittered, log_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.record.catch_up import Recorded

_log = logging.getLogger(__name__)


class Recorder:
    """Records the conversations it is woken for, several at once; repeated wake-ups are one.

    Args:
        record: catches one conversation up.
        pause_s: the least delay before a conversation that was recorded is recorded again, in
            seconds.
        capacity: how many may wait. Further ones are dropped; the poller finds them later.
        at_once: how many are recorded at a time.
    """

    def __init__(
        self,
        record: Callable[[str], Awaitable[Recorded]],
        *,
        pause_s: float = 1.0,
        capacity: int = 10_000,
        at_once: int = 4,
    ) -> None:
        self._record = record
        self._pause_s = pause_s
        self._capacity = capacity
        self._at_once = at_once
        self._waiting: dict[str, None] = {}
        self.task = PeriodicTask("recorder", self._record_waiting)

    @property
    def full(self) -> bool:
        """Whether the queue is full."""
        return len(self._waiting) >= self._capacity

    @property
    def waiting(self) -> int:
        """The number of conversations that wait to be recorded."""
        return len(self._waiting)

    def wake(self, conversation_id: str) -> None:
        """Queue a conversation whose channel may have new messages; return at once."""
        if self.task.is_open and not self.full:
            self._waiting[conversation_id] = None
            self.task.wake()

    def open(self) -> None:
        """Start recording."""
        self.task.open()

    async def close(self) -> None:
        """Stop recording; transactions that are under way are rolled back."""
        await self.task.close()

    async def _record_waiting(self) -> None:
        due, self._waiting = list(self._waiting), {}
        try:
            while due:
                batch = due[: self._at_once]
                await asyncio.gather(*map(self._record_one, batch))
                del due[: self._at_once]
        finally:
            for conversation_id in due:  # the task was cancelled; a restarted one goes on
                self._waiting.setdefault(conversation_id)
        await asyncio.sleep(jittered(self._pause_s * 1.25, 0.2))

    async def _record_one(self, conversation_id: str) -> None:
        try:
            await self._record(conversation_id)
        except Exception as error:  # noqa: BLE001 - the other conversations are recorded anyway
            log_failure(_log, "a conversation could not be recorded, will retry", error)
            self._waiting.setdefault(conversation_id)
            self.task.wake()
