"""What goes on beside the calls: recording, sweeping, going round, and noticing erasures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rehydrate.maintenance.idle_limit import end_idle
from rehydrate.maintenance.poller import Poller, WebhookWakeups
from rehydrate.maintenance.sweeper import Sweeper, sweep
from rehydrate.record.catch_up import Recorded, Recorder
from rehydrate.record.erase import ErasureWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from rehydrate.context import Context
    from rehydrate.ports import Due

_AT_A_TIME = 100
_DUE_AT_A_TIME = 1_000
"""Of one conversation they are swept together: no more than one page of its channel may change."""

_LONGEST_ROUND_S = 30.0


class MaintenanceOptions(NamedTuple):
    """How things are kept up.

    ``lease_s``: how long a publisher may give no sign of life. ``idle_ms``: how long one without a
    lease may say nothing; 0: for ever. ``retention_ms``: how long the channel keeps history.
    """

    lease_s: float
    idle_ms: int
    retention_ms: int


class MaintenanceParts(NamedTuple):
    """What is kept in memory of conversations, and how to have it read again.

    ``ids``: which. ``changed``: read that one again. ``read_quiet``: read again what is open and was
    quiet since then (in ms).
    """

    ids: Callable[[], Collection[str]]
    changed: Callable[[str], None]
    read_quiet: Callable[[int], None]


class Maintenance:
    """The tasks of a process beside its calls.

    Args:
        ctx: the adapters and limits.
        terms: how things are kept up.
        record: catches one conversation up.
        kept: what is kept in memory.
        by_template: the conversation that a channel without a row would belong to.
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
        self._terms = terms
        self._record = record
        self._kept = kept
        self._recorder = Recorder(record)
        self._announcements = WebhookWakeups(
            ctx.store.on_channels, by_template, self._recorder.wake
        )
        retention_s = terms.retention_ms / 1000
        self._round_s = min(_LONGEST_ROUND_S, retention_s / 4)
        self._rounds = Poller(
            self._overdue, self._recorder.wake, every_s=self._round_s, for_s=retention_s
        )
        every_s, lease_s = min(1.0, terms.lease_s / 4), terms.lease_s
        self._sweepers = [Sweeper(self._due, self._sweep, every_s=every_s, lease_s=lease_s)]
        self._idle_every_ms = min(int(_LONGEST_ROUND_S * 1000), terms.idle_ms // 4)
        if terms.idle_ms:
            every_s = self._idle_every_ms / 1000
            self._sweepers.append(
                Sweeper(self._idle, self._end_idle, every_s=every_s, lease_s=lease_s)
            )
        self._erasures = ErasureWatch(kept.ids, ctx.store.erased, kept.changed)

    def open(self) -> None:
        """Begin."""
        self._recorder.open()
        self._rounds.open()
        self._erasures.open()
        for sweeper in self._sweepers:
            sweeper.open()

    async def close(self) -> None:
        """Stop; what is under way is taken up elsewhere, or later."""
        await self._announcements.close()
        await self._rounds.close()
        await self._erasures.close()
        for sweeper in self._sweepers:
            await sweeper.close()
        await self._recorder.close()

    @property
    def busy(self) -> bool:
        """Whether so much waits to be recorded that announcements are refused."""
        return self._recorder.full or self._announcements.full

    @property
    def waiting(self) -> int:
        """How many conversations wait to be recorded."""
        return self._recorder.waiting

    @property
    def patience_s(self) -> float:
        """How long what is open may go unread: two rounds."""
        return 2 * self._round_s

    def wake(self, conversation_id: str) -> None:
        """Something was said in a conversation: record it."""
        self._recorder.wake(conversation_id)

    def attend(self, conversation_id: str) -> None:
        """Something goes on in a conversation: record it, now and for a while."""
        self._rounds.attend(conversation_id)

    def hear(self, channels: Collection[str]) -> None:
        """Something was said on *channels*: record their conversations."""
        self._announcements.hear(channels)

    async def _overdue(self) -> list[str]:
        return await self._ctx.store.overdue(limit=_AT_A_TIME, after_s=self._round_s)

    async def _due(self) -> list[Due]:
        return await self._ctx.store.due(limit=_DUE_AT_A_TIME)

    async def _sweep(self, due: list[Due]) -> int:
        return await sweep(
            self._ctx,
            due,
            record=self._record,
            lease_s=self._terms.lease_s,
        )

    async def _idle(self) -> list[Due]:
        # any process may have ended it by then, and tells followers of its own alone
        self._kept.read_quiet(self._ctx.now_ms() - self._terms.idle_ms - 2 * self._idle_every_ms)
        return await self._ctx.store.idle(limit=_AT_A_TIME, after_s=self._terms.idle_ms / 1000)

    async def _end_idle(self, due: list[Due]) -> int:
        count = 0
        for each in due:
            count += await end_idle(
                self._ctx,
                each,
                record=self._record,
                limit_ms=self._terms.idle_ms,
            )
        if count:
            self._kept.changed(due[0].conversation_id)
        return count
