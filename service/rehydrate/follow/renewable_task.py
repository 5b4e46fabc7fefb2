"""A task of one follow: work that ends by itself, and is begun again if it was cut off."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from rehydrate.background import RESTART_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_log = logging.getLogger(__name__)


class RenewableTask:
    """At most one task at a time, which its owner starts and cancels.

    For work that ends by itself, where `SupervisedTask` is for work that does not.

    Args:
        name: the name of the task, in the log and in debuggers.
        cut_off: called `RESTART_S` after the task was cancelled by anything but its owner, so that
            the owner starts it again.

    Attributes:
        name: as above.
        restarts: how often the task was cut off.
    """

    def __init__(self, name: str, cut_off: Callable[[], object]) -> None:
        self.name = name
        self.restarts = 0
        self._cut_off = cut_off
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* in a task, in place of the one before, which has ended or is ending."""
        self._task = asyncio.create_task(work, name=self.name)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> asyncio.Task[None] | None:
        """Cancel the task and return it; None if there is none, or if it is the caller."""
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task():
            return None
        task.cancel()
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is not task or not task.cancelled():
            return
        _log.error("background task %s was cancelled and is restarted", self.name)
        self.restarts += 1
        # later, not at once: a loop that is shutting down cancels all tasks, and then stops
        task.get_loop().call_later(RESTART_S, self._cut_off)
