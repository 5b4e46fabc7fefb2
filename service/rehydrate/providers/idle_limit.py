"""A time limit for each of many short waits, at the cost of a few assignments per wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

_T = TypeVar("_T")


class IdleLimit:
    """The equivalent of `asyncio.timeout` around every wait, with one timer for all of them.

    A stream waits once per token, and a timer for each wait would cost more than everything else
    in reading it. When the one timer fires, it checks when the current wait began, and reschedules
    itself for the remaining time. Only one wait at a time is supported.

    Args:
        limit_s: how long one wait may take, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fired = False

    async def wait(self, awaitable: Awaitable[_T]) -> _T:
        """Await *awaitable* and return its result.

        Raises:
            TimeoutError: it took longer than the limit, and was cancelled.
        """
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._since_s = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s, self._check, loop)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._fired and task is not None and task.uncancel() == 0:
                raise TimeoutError from None
            raise  # the task was also cancelled from outside
        finally:
            self._since_s = self._task = None
            self._fired = False

    def close(self) -> None:
        """Cancel the timer; a later wait starts it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._since_s is None or self._task is None:
            return
        left_s = self._since_s + self._limit_s - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._check, loop)
        else:
            self._fired = True
            self._task.cancel()
