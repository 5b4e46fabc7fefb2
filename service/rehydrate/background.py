"""Background tasks, lease keeping and retry delays: one mechanism for each.

Whatever runs beside the calls of a process runs in a `SupervisedTask`, most of it in a
`PeriodicTask`, so that all of them end only when they are closed, log in the same way, and report
when their work is overdue. Whatever must renew a lease while it works does so inside a
`LeaseKeeper`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rehydrate.errors import OutcomeUnknown, RehydrateError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
    )


K = TypeVar("K")
V = TypeVar("V")

_log = logging.getLogger(__name__)

RETRY_S = 1.0
"""The first delay before a failed run is repeated, unless the task runs more often than that."""

RESTART_S = 0.5
"""The first delay before a task that was ended from outside is started again."""

_LONGEST_RESTART_S = 30.0

LATE_S = 60.0
"""A turn that is due and has not succeeded for so long is reported as late."""

SETTLE_S = 10.0
"""How long a write whose outcome is unknown is repeated."""

_FIRST_SETTLE_S = 0.1

CLOSE_TIMEOUT_S = 5.0
_CANCELLATIONS = 4
"""How often a task is cancelled while it is closed: an SDK may swallow a cancellation."""


def jittered(seconds: float, spread: float = 0.25) -> float:
    """Return *seconds*, longer or shorter at random by up to *spread* of it.

    Processes that start together would otherwise query the same tables at the same moments.
    """
    return seconds * random.uniform(1 - spread, 1 + spread)  # noqa: S311 - spreads load


class Backoff:
    """Delays that double from *first_s* up to *cap_s*, each reduced at random by up to half.

    The lower half stays fixed: most callers try a limited number of times, and must cover a
    limit of a second or an outage of a few seconds with those.

    Args:
        first_s: the longest first delay, in seconds.
        cap_s: the longest delay, in seconds.
    """

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._whole_s = first_s

    def next_s(self) -> float:
        """Return the next delay, in seconds."""
        whole_s, self._whole_s = self._whole_s, min(self._whole_s * 2, self._cap_s)
        return random.uniform(whole_s / 2, whole_s)  # noqa: S311 - spreads load

    def reset(self) -> None:
        """Start again from *first_s*, after a success."""
        self._whole_s = self._first_s


async def settled(write: Callable[[], Awaitable[V]]) -> V:
    """Return what *write* returns; repeat it while the outcome of its commit is unknown.

    Args:
        write: has the same effect and the same result when it is repeated after a success.

    Raises:
        StoreUnavailable: the store did not answer, or not within `SETTLE_S` after a commit.
    """
    until_s: float | None = None
    backoff = Backoff(_FIRST_SETTLE_S, RETRY_S)
    while True:
        try:
            return await write()
        except StoreUnavailable as error:
            if until_s is None and isinstance(error, OutcomeUnknown):
                until_s = time.monotonic() + SETTLE_S
            if until_s is None or time.monotonic() > until_s:
                raise
        await asyncio.sleep(backoff.next_s())


LOG_EVERY_S = 60.0
_failures_logged: dict[tuple[str, str, str], tuple[float, int]] = {}  # when last, how many since


def log_failure(logger: logging.Logger, message: str, error: BaseException) -> None:
    """Log a failure after which the work goes on: an outage as a warning, a defect as an error.

    Only its type is logged, as its text may contain message content; each kind once a minute.

    Args:
        logger: the logger of the module in which it failed.
        message: what failed; gets ``": "`` and the type appended.
        error: the exception.
    """
    level = logging.WARNING if isinstance(error, RehydrateError | TimeoutError) else logging.ERROR
    kind = (logger.name, message, type(error).__name__)
    logged_s, repeated = _failures_logged.get(kind, (float("-inf"), 0))
    if time.monotonic() - logged_s < LOG_EVERY_S:
        _failures_logged[kind] = (logged_s, repeated + 1)
    else:
        _failures_logged[kind] = (time.monotonic(), 0)
        logger.log(level, "%s: %s%s", message, kind[2], f" ({repeated} more)" if repeated else "")


class SupervisedTask:
    """Run *work* in a task until closed; if the task ends in another way, start it again.

    Args:
        name: the name of the task, in the log and in debuggers.
        work: what the task does; does not return before it is closed.

    Attributes:
        name: as above.
        restarts: how often the task ended and was started again.
    """

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.restarts = 0
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._backoff = Backoff(RESTART_S, _LONGEST_RESTART_S)
        self._started_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the task runs, or is about to be started again."""
        return self._task is not None or self._restart is not None

    def open(self) -> None:
        """Start the task; opening an open one changes nothing."""
        if not self.is_open:
            self._start()

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Cancel the task, and wait at most *timeout_s* seconds for it to end."""
        task, self._task = self._task, None
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if task is None:
            return
        for _ in range(_CANCELLATIONS):
            task.cancel()
            if (await asyncio.wait({task}, timeout=timeout_s / _CANCELLATIONS))[0]:
                return
        _log.error("background task %s did not stop within %g s", self.name, timeout_s)

    def _start(self) -> None:
        self._restart = None
        self._started_s = time.monotonic()
        self._task = asyncio.create_task(self._work(), name=self.name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._task is not task:
            return  # closed
        reason = "cancelled" if task.cancelled() else type(error).__name__ if error else "done"
        _log.error("background task %s ended and is restarted: %s", self.name, reason)
        self.restarts += 1
        self._task = None
        if time.monotonic() - self._started_s > _LONGEST_RESTART_S:
            self._backoff.reset()
        # later, not at once: a loop that is shutting down cancels all tasks, and then stops
        self._restart = task.get_loop().call_later(self._backoff.next_s(), self._start)


class PeriodicTask(SupervisedTask):
    """Call *run* again and again in the background, until closed.

    An exception of *run* is logged, once for as long as it repeats, and the call is repeated: after
    `RETRY_S`, then less and less often, but at least at the interval. If the task itself is
    ended from outside, it is started again, and repeats the call.

    Args:
        name: the name of the task, in the log and in debuggers.
        run: the work of one turn.
        every_s: the interval in seconds, varied by a quarter; None: only when woken.

    Attributes:
        last_ok_s: when *run* last returned, by the monotonic clock, in seconds; before that, when
            the task was opened; None before then.
    """

    def __init__(
        self, name: str, run: Callable[[], Awaitable[object]], *, every_s: float | None = None
    ) -> None:
        super().__init__(name, self._loop)
        self.last_ok_s: float | None = None
        self._run = run
        self._every_s = every_s
        self._wake = asyncio.Event()
        self._due_s: float | None = None
        self._failure: type[Exception] | None = None

    @property
    def overdue_s(self) -> float:
        """For how many seconds a turn has been due, or under way, that has not succeeded."""
        return 0.0 if self._due_s is None or not self.is_open else time.monotonic() - self._due_s

    def open(self) -> None:
        """Start the task; opening an open one changes nothing."""
        if not self.is_open:
            self.last_ok_s = time.monotonic()
            self._due_s = None
        super().open()

    def wake(self) -> None:
        """Call *run* as soon as possible; while it runs, once more after that."""
        self._note_due()
        self._wake.set()

    def _note_due(self) -> None:
        if self._due_s is None:
            self._due_s = time.monotonic()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self.wake()  # the turn that was cut off is repeated
        super()._ended(task)

    async def _loop(self) -> None:
        this = asyncio.current_task()
        every_s = self._every_s or RETRY_S
        backoff = Backoff(min(RETRY_S, every_s), max(RETRY_S, every_s))
        while self._task is this:  # a run that swallows its cancellation must not outlive `close`
            await self._until_due()
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 - no failure of one turn ends the task
                if self._failure is not type(error):
                    log_failure(_log, f"background task {self.name} failed, will retry", error)
                self._failure = type(error)
                self._wake.set()
                await asyncio.sleep(backoff.next_s())
            else:
                if self._failure is not None:
                    _log.info("background task %s works again", self.name)
                self._failure = None
                backoff.reset()
                self.last_ok_s = time.monotonic()
                self._due_s = self.last_ok_s if self._wake.is_set() else None

    async def _until_due(self) -> None:
        every_s = self._every_s
        try:
            async with asyncio.timeout(None if every_s is None else jittered(every_s)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._note_due()
        self._wake.clear()


def tasks_state(tasks: Iterable[PeriodicTask]) -> str:
    """Return "ok", or the names of the *tasks* that are late and for how many seconds."""
    late = [f"{task.name} ({task.overdue_s:.0f} s)" for task in tasks if task.overdue_s > LATE_S]
    return f"late: {', '.join(late)}" if late else "ok"


class TaskPool:
    """Tasks of one owner that outlive the calls that start them, and end with the owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run *work* in a task of that *name*, and return the task."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Cancel all tasks, and wait at most *timeout_s* seconds for them to end."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            done, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in done:
                if not task.cancelled() and (error := task.exception()) is not None:
                    log_failure(_log, f"{task.get_name()} failed while it was stopped", error)
            if late:
                _log.error("%d tasks did not stop within %g s", len(late), timeout_s)


class LeaseLost(Exception):
    """The lease is held by another process, or its object was erased."""


class LeaseKeeper:
    """Renew a lease for as long as a block runs.

    Args:
        name: the name of the task that renews.
        renew: renew the lease once.
            Raises `LeaseLost` if another process has it, `StoreUnavailable` in an outage.
        every_s: the interval between renewals, in seconds.
        lease_s: the length of the lease, in seconds. After an outage that lasts as long, the lease
            counts as lost: another process may hold it. Infinite: an outage is never a loss.
        cut_off: cancel the block when the lease is lost; otherwise the loss is only logged.
    """

    def __init__(
        self,
        name: str,
        renew: Callable[[], Awaitable[object]],
        *,
        every_s: float,
        lease_s: float,
        cut_off: bool = True,
    ) -> None:
        self._name = name
        self._renew = renew
        self._every_s = every_s
        self._lease_s = lease_s
        self._cut_off = cut_off
        self._now = asyncio.Event()

    def renew_now(self) -> None:
        """Renew without waiting for the interval to end."""
        self._now.set()

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Renew the lease while the block runs.

        Raises:
            LeaseLost: it was lost, and the block was cut off.
        """
        holder = asyncio.current_task()
        lost = False

        def cut_off(renewing: asyncio.Task[None]) -> None:
            nonlocal lost
            if renewing.cancelled() or holder is None:
                return
            if not self._cut_off:
                _log.warning("%s is lost: another process may hold it now", self._name)
            else:
                lost = True
                holder.cancel()

        renewing = asyncio.create_task(self._renew_until_lost(), name=self._name)
        renewing.add_done_callback(cut_off)
        try:
            yield
        except asyncio.CancelledError:
            if not lost or holder is None or holder.uncancel():
                raise  # the owner of the block cancels it, too
            raise LeaseLost from None
        finally:
            renewing.remove_done_callback(cut_off)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew_until_lost(self) -> None:
        loop = asyncio.get_running_loop()
        renewed_s = loop.time()
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            started_s = loop.time()
            try:
                await self._renew()
                renewed_s = started_s
            except LeaseLost:
                return
            except Exception as error:  # noqa: BLE001 - what fails once may succeed in time
                if not isinstance(error, StoreUnavailable):
                    log_failure(_log, f"{self._name} could not be renewed, will retry", error)
                if loop.time() - renewed_s > self._lease_s:
                    return
