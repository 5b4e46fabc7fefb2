"""Recorder: catch up conversations with their channels when they are woken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rehydrate.background import Backoff, PeriodicTask, TaskPool, jittered, log_failure
from rehydrate.context import WakeQueue
from rehydrate.limits import BoundedCache
from rehydrate.record.catch_up import Recorded

_log = logging.getLogger(__name__)

RECORD_TIMEOUT_S = 60.0
"""How long one catch-up may take. The pages that it has committed stay; the next one continues."""

LONGEST_RETRY_S = 30.0

MAX_RESTING = 10_000
"""Conversations that wait for their next attempt. Further ones are left to the poller."""


class Recorder:
    """Records the conversations it is woken for, several at once; repeated wake-ups are one.

    Each is recorded in a task of its own, so that one whose history stalls holds no other. One that
    fails is retried after longer and longer delays, and such retries get a share of the places
    only: many that fail do not keep the others from being recorded in time.

    Args:
        record: catches one conversation up.
        pause_s: the least delay before a conversation that was recorded is recorded again, in
            seconds; also the first delay before a retry.
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
        at_once: int = 8,
    ) -> None:
        self._record = record
        self._pause_s = pause_s
        self._at_once = at_once
        self.queue = queue
        self.task = queue.task = PeriodicTask("recorder", self._start_waiting)
        self._recording = TaskPool()
        self._woken_again: dict[str, bool] = {}  # those that are being recorded, or rest after it
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._failing: BoundedCache[str, Backoff] = BoundedCache(MAX_RESTING)
        self._retries: dict[str, None] = {}
        self._retrying = 0

    def open(self) -> None:
        """Start recording."""
        self.task.open()

    async def close(self) -> None:
        """Stop recording; transactions that are under way are rolled back."""
        await self.task.close()
        await self._recording.close()
        for timer in self._resting.values():
            timer.cancel()
        for kept in (self._resting, self._woken_again, self._retries):
            kept.clear()

    async def _start_waiting(self) -> None:
        while len(self._recording) < self._at_once:
            share = self._at_once // (4 if len(self.queue) else 2)
            if self._retries and self._retrying < max(1, share):
                conversation_id = next(iter(self._retries))
                del self._retries[conversation_id]
                self._start(conversation_id, retry=True)
            elif woken := self.queue.take(1):
                if woken[0] in self._woken_again:
                    self._woken_again[woken[0]] = True
                else:
                    self._start(woken[0], retry=False)
            else:
                return

    def _start(self, conversation_id: str, *, retry: bool) -> None:
        self._woken_again[conversation_id] = False
        self._retrying += retry
        self._recording.start(self._record_one(conversation_id, retry=retry), name="recording")

    async def _record_one(self, conversation_id: str, *, retry: bool) -> None:
        failed = True
        try:
            async with asyncio.timeout(RECORD_TIMEOUT_S):
                await self._record(conversation_id)
            failed = False
        except Exception as error:  # noqa: BLE001 - the other conversations are recorded anyway
            log_failure(_log, "a conversation could not be recorded, will retry", error)
        finally:
            self._retrying -= retry
            self._rest(conversation_id, failed=failed)
            self.task.wake()  # its place is free once this task has ended

    def _rest(self, conversation_id: str, *, failed: bool) -> None:
        """Leave the conversation alone for a while, then record it again if necessary."""
        if not failed:
            self._failing.pop(conversation_id)
            pause_s = jittered(self._pause_s * 1.25, 0.2)
        elif len(self._resting) < MAX_RESTING:
            backoff = self._failing.get(conversation_id) or Backoff(self._pause_s, LONGEST_RETRY_S)
            self._failing[conversation_id] = backoff
            pause_s = backoff.next_s()
        else:
            del self._woken_again[conversation_id]
            return
        self._resting[conversation_id] = asyncio.get_running_loop().call_later(
            pause_s, self._rested, conversation_id, failed
        )

    def _rested(self, conversation_id: str, failed: bool) -> None:
        del self._resting[conversation_id]
        woken_again = self._woken_again.pop(conversation_id)
        if failed:
            self._woken_again[conversation_id] = False
            self._retries[conversation_id] = None
        elif woken_again:
            self.queue.put_back([conversation_id])
        else:
            return
        self.task.wake()
