"""Blocking calls: run code that may block for long in a bounded number of threads of our own.

asyncio's default executor has few threads (six on two cores), and asyncio itself needs them, to
resolve host names. A few answers of a blocking client, or a few tools that hang, would occupy all
of them. Here a thread whose caller has given up is abandoned, since it cannot be stopped: it no longer
counts, another one takes its place, and it ends when its call returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, finalize

from rehydrate.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_CALLS = 256
"""Calls that run at a time; further ones wait."""

MAX_ABANDONED = 256
"""Threads that may hang; while there are so many, calls are refused."""

MAX_WAITING = 4_096
"""Maximum number of calls that wait for a thread; further ones are refused."""

_MAX_IDLE = 16


class BlockingCalls:
    """Runs calls in threads, for one event loop; see `blocking_calls`.

    Args:
        most: how many calls run at a time.
        most_abandoned: how many threads may hang.
        most_waiting: how many calls may wait.
    """

    def __init__(
        self,
        most: int = MAX_CALLS,
        most_abandoned: int = MAX_ABANDONED,
        most_waiting: int = MAX_WAITING,
    ) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._most_abandoned = most_abandoned
        self._running: dict[asyncio.Future[Any], _Worker] = {}
        self._waiting: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._idle: list[_Worker] = []
        finalize(self, _dismiss, self._idle)
        self.abandoned = 0

    def start(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run *call* in a thread, when one is free; return its result as a future.

        A caller that gives up waiting for it calls `abandon`.

        Raises:
            Busy: too many threads hang, or too many calls wait.
        """
        if self.abandoned >= self._most_abandoned:
            raise Busy(f"{self.abandoned} threads hang in calls that do not return")
        if len(self._waiting) >= self._most_waiting:
            self._waiting = deque(each for each in self._waiting if not each[0].done())
        if len(self._waiting) >= self._most_waiting:
            raise Busy(f"{len(self._waiting)} blocking calls wait for a thread")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, partial(contextvars.copy_context().run, call)))
        self._start_waiting()
        return future

    async def run(self, call: Callable[[], T]) -> T:
        """Run *call* in a thread and return its result; abandon it if the caller is cancelled.

        Raises:
            Busy: too many threads hang, or too many calls wait.
        """
        future = self.start(call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.abandon(future)
            raise

    def abandon(self, future: asyncio.Future[Any]) -> None:
        """Stop counting the thread of a call that has not returned."""
        worker = self._running.pop(future, None)
        if worker is None:
            future.cancel()  # it waits, or has returned
            return
        worker.abandoned = True
        self.abandoned += 1
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._most:
            future, call = self._waiting.popleft()
            if future.done():
                continue
            worker = self._idle.pop() if self._idle else _Worker()
            self._running[future] = worker
            returned = partial(self._returned, worker, future)
            worker.calls.put(partial(_call, future.get_loop(), call, returned))

    def _returned(
        self,
        worker: _Worker,
        future: asyncio.Future[Any],
        result: Any,
        error: BaseException | None,
    ) -> None:
        self._running.pop(future, None)
        if worker.abandoned:
            self.abandoned -= 1
        if worker.abandoned or len(self._idle) >= _MAX_IDLE:
            worker.calls.put(None)
        else:
            self._idle.append(worker)
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
                future.exception()  # of an abandoned call: without this the event loop reports it as never retrieved
        self._start_waiting()


class _Worker:
    """A thread that runs one call after the other until it gets None."""

    def __init__(self) -> None:
        self.abandoned = False
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="rehydrate blocking call", daemon=True).start()

    def _run(self) -> None:
        while (call := self.calls.get()) is not None:
            call()
            del call  # keep nothing alive while idle


def _call(
    loop: asyncio.AbstractEventLoop, call: Callable[[], Any], returned: Callable[..., None]
) -> None:
    """Run *call* in this thread, and have *returned* called in *loop* with its result or error."""
    result, error = None, None
    try:
        result = call()
    except BaseException as raised:  # noqa: BLE001 - it is raised where the call is awaited
        error = raised
    if isinstance(error, StopIteration | GeneratorExit):  # a future cannot raise them
        error = RuntimeError(f"a blocking call raised {type(error).__name__}")
    with suppress(RuntimeError):  # the event loop was closed in the meantime
        loop.call_soon_threadsafe(returned, result, error)


def _dismiss(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.calls.put(None)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, BlockingCalls] = WeakKeyDictionary()


def blocking_calls() -> BlockingCalls:
    """Return the `BlockingCalls` of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = BlockingCalls()
    return found
