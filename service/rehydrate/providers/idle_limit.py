"""A time limit for each of many short waits, at the cost of a few assignments a wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

_T = TypeVar("_T")


class IdleLimit:
    """As `asyncio.timeout` around every wait, but with one timer for all of them.

    A stream waits once a token: a timer each would cost more than all the rest of reading it. The
    timer looks, when it fires, since when the present wait goes on, and sleeps for what is left.
    One wait at a time.

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
        """Await it.

        Raises:
            TimeoutError: it took longer than the limit, and was cancelled.
        """
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._since_s = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s, self._look, loop)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._fired and task is not None and task.uncancel() == 0:
                raise TimeoutError from None
            raise  # somebody else cancels too
        finally:
            self._since_s = self._task = None
            self._fired = False

    def close(self) -> None:
        """Take the timer down; a later wait sets it up again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._since_s is None or self._task is None:
            return
        left_s = self._since_s + self._limit_s - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look, loop)
        else:
            self._fired = True
            self._task.cancel()
