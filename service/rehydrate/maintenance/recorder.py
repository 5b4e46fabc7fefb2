"""Recorder: catch up conversations with their channels when they are woken."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rehydrate.background import PeriodicTask, jittered, log_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.context import WakeQueue
    from rehydrate.record.catch_up import Recorded

_log = logging.getLogger(__name__)


class Recorder:
    """Records the conversations it is woken for, several at once; repeated wake-ups are one.

    Args:
        record: catches one conversation up.
        pause_s: the least delay before a conversation that was recorded is recorded again, in
            seconds.
        queue: the conversations that wait. Those that find it full are dropped; the poller finds
            them later.
        at_once: how many are recorded at a time.
    """

    def __init__(
        self,
        record: Callable[[str], Awaitable[Recorded]],
        *,
        queue: WakeQueue,
        pause_s: float = 1.0,
        at_once: int = 4,
    ) -> None:
        self._record = record
        self._pause_s = pause_s
        self._at_once = at_once
        self.queue = queue
        self.task = queue.task = PeriodicTask("recorder", self._record_waiting)

    def open(self) -> None:
        """Start recording."""
        self.task.open()

    async def close(self) -> None:
        """Stop recording; transactions that are under way are rolled back."""
        await self.task.close()

    async def _record_waiting(self) -> None:
        due = self.queue.take()
        try:
            while due:
                batch = due[: self._at_once]
                await asyncio.gather(*map(self._record_one, batch))
                del due[: self._at_once]
        finally:
            self.queue.put_back(due)  # the task was cancelled; a restarted one goes on
        await asyncio.sleep(jittered(self._pause_s * 1.25, 0.2))

    async def _record_one(self, conversation_id: str) -> None:
        try:
            await self._record(conversation_id)
        except Exception as error:  # noqa: BLE001 - the other conversations are recorded anyway
            log_failure(_log, "a conversation could not be recorded, will retry", error)
            self.queue.put_back([conversation_id])
            self.task.wake()
