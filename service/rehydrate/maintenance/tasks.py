"""Maintenance: the background tasks of a process that keep its conversations up to date."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from rehydrate.background import PeriodicTask
from rehydrate.context import Context
from rehydrate.maintenance.erasure_watch import ErasureWatch
from rehydrate.maintenance.idle_limit import end_idle
from rehydrate.maintenance.poller import Poller
from rehydrate.maintenance.recorder import Recorder
from rehydrate.maintenance.sweeper import Sweeper, sweep
from rehydrate.maintenance.webhook_wakeups import WebhookWakeups
from rehydrate.ports import Due
from rehydrate.record.catch_up import Recorded

C = TypeVar("C")
T = TypeVar("T")

_PAGE = 1_000
"""Rows of a query. Responses of one conversation are swept together, so it holds many of those."""

_MOST_PAGES = 5
"""Pages that one turn of a task reads; the next turn continues after them."""

_MAX_INTERVAL_S = 30.0


class MaintenanceOptions(NamedTuple):
    """The limits that maintenance enforces.

    Attributes:
        lease_s: how long a publisher may fail to renew its lease, in seconds.
        idle_ms: how long a publisher without a lease may produce no output, in ms; 0: no limit.
        retention_ms: how long the channel keeps history, in ms.
    """

    lease_s: float
    idle_ms: int
    retention_ms: int


class MaintenanceParts(NamedTuple):
    """The conversations in memory, and how to have them read again.

    Attributes:
        ids: return their ids.
        changed: have one read again, since the store changed.
        read_quiet: have the open ones read again that had no event since a time, in ms.
    """

    ids: Callable[[], Collection[str]]
    changed: Callable[[str], None]
    read_quiet: Callable[[int], None]


class _Rotation(Generic[C, T]):
    """Reads what is due page by page, a few pages a turn, so that nothing stays behind the rest.

    Args:
        start: what the first page comes after.
    """

    def __init__(self, start: C) -> None:
        self._start = self._after = start

    async def turn(
        self, page: Callable[[C], Awaitable[tuple[list[T], C | None]]], *, most: int = _MOST_PAGES
    ) -> list[T]:
        """Return the rows of the next pages, at most *most*; the end of the last one ends a turn."""
        found: list[T] = []
        for _ in range(most):
            rows, after = await page(self._after)
            found += rows
            self._after = self._start if after is None else after
            if after is None:
                break
        return found


class Maintenance:
    """The background tasks of a process: recorder, poller, webhook wake-ups, sweepers, erasures.

    Args:
        ctx: the adapters and limits.
        terms: the limits to enforce.
        record: catches one conversation up with its channel.
        kept: the conversations in memory.
        by_template: return the conversation to which the template assigns a channel without a row.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        terms: MaintenanceOptions,
        record: Callable[[str], Awaitable[Recorded]],
        kept: MaintenanceParts,
        by_template: Callable[[str], str | None],
    ) -> None:
        self._ctx = ctx
        self._options = terms
        self._record = record
        self._kept = kept
        wake = ctx.unrecorded.add
        self._recorder = Recorder(record, queue=ctx.unrecorded)
        self._wakeups = WebhookWakeups(ctx.store.on_channels, by_template, wake)
        retention_s = terms.retention_ms / 1000
        self._poll_every_s = min(_MAX_INTERVAL_S, retention_s / 4)
        self._poller = Poller(self._overdue, wake, every_s=self._poll_every_s, for_s=retention_s)
        every_s, lease_s = min(1.0, terms.lease_s / 4), terms.lease_s
        self._sweepers = [Sweeper(self._due, self._sweep, every_s=every_s, lease_s=lease_s)]
        self._idle_every_ms = min(int(_MAX_INTERVAL_S * 1000), terms.idle_ms // 4)
        if terms.idle_ms:
            every_s = self._idle_every_ms / 1000
            self._sweepers.append(
                Sweeper(
                    self._idle, self._end_idle, every_s=every_s, lease_s=lease_s, name="idle limit"
                )
            )
        self._overdue_pages: _Rotation[str, str] = _Rotation("")
        self._due_pages: _Rotation[tuple[str, str], Due] = _Rotation(("", ""))
        self._idle_pages: _Rotation[tuple[str, str], Due] = _Rotation(("", ""))
        self._erasures = ErasureWatch(kept.ids, ctx.store.erased, kept.changed)

    def open(self) -> None:
        """Start all tasks."""
        self._recorder.open()
        self._wakeups.open()
        self._poller.open()
        self._erasures.open()
        for sweeper in self._sweepers:
            sweeper.open()

    async def close(self) -> None:
        """Stop all tasks; unfinished work is continued by another process, or later."""
        await self._wakeups.close()
        await self._poller.close()
        await self._erasures.close()
        for sweeper in self._sweepers:
            await sweeper.close()
        await self._recorder.close()

    @property
    def tasks(self) -> list[PeriodicTask]:
        """All background tasks; each reports when it last succeeded."""
        return [
            self._recorder.task,
            self._wakeups.task,
            self._poller.task,
            self._erasures.task,
            *(sweeper.task for sweeper in self._sweepers),
        ]

    @property
    def busy(self) -> bool:
        """Whether a queue is full, so that announcements are refused."""
        return self._ctx.unrecorded.full or self._wakeups.full

    @property
    def dropped(self) -> dict[str, int]:
        """What was dropped because it could never succeed, by kind."""
        return {"announcement": self._wakeups.dropped}

    @property
    def waiting(self) -> int:
        """The number of conversations that wait to be recorded."""
        return len(self._ctx.unrecorded)

    @property
    def patience_s(self) -> float:
        """How long an open conversation may go unread, in seconds: two intervals of the poller."""
        return 2 * self._poll_every_s

    def attend(self, conversation_id: str) -> None:
        """Record a conversation that is in use, now and for a while."""
        self._poller.attend(conversation_id)

    def announce(self, channels: Collection[str]) -> None:
        """Record the conversations of *channels*, which have new messages."""
        self._wakeups.announce(channels)

    async def _overdue(self) -> list[str]:
        async def page(after: str) -> tuple[list[str], str | None]:
            found = await self._ctx.store.overdue(
                limit=_PAGE, after_s=self._poll_every_s, after=after
            )
            return found, found[-1] if len(found) == _PAGE else None

        return await self._overdue_pages.turn(page)

    async def _due(self) -> list[Due]:
        async def page(after: tuple[str, str]) -> tuple[list[Due], tuple[str, str] | None]:
            found = await self._ctx.store.due(limit=_PAGE, after=after)
            return found, found[-1][:2] if len(found) == _PAGE else None

        return await self._due_pages.turn(page, most=1)

    async def _sweep(self, due: list[Due]) -> int:
        return await sweep(self._ctx, due, record=self._record, lease_s=self._options.lease_s)

    async def _idle(self) -> list[Due]:
        # the process that ended a response updates only its own followers; the others read again
        idle_ms, now_ms = self._options.idle_ms, self._ctx.now_ms()
        self._kept.read_quiet(now_ms - idle_ms - 2 * self._idle_every_ms)
        page = partial(self._idle_page, now_ms - idle_ms)
        return await self._idle_pages.turn(page)

    async def _idle_page(
        self, before_ms: int, after: tuple[str, str]
    ) -> tuple[list[Due], tuple[str, str] | None]:
        return await self._ctx.store.idle(limit=_PAGE, before_ms=before_ms, after=after)

    async def _end_idle(self, due: list[Due]) -> int:
        count = 0
        for each in due:
            count += await end_idle(
                self._ctx, each, record=self._record, limit_ms=self._options.idle_ms
            )
        if count:
            self._kept.changed(due[0].conversation_id)
        return count
