"""One replay that this process runs: its lease and its progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from rehydrate.background import Backoff, LeaseKeeper, LeaseLost, jittered
from rehydrate.core.replay.schedule import AuditEntry, Replay, ReplayState
from rehydrate.errors import StoreUnavailable
from rehydrate.permits import PublishPermit, TextErased
from rehydrate.ports import ReplayQueue
from rehydrate.replay.player import Player

_log = logging.getLogger(__name__)

LEASE_S = 5.0
"""How long a process that runs a replay may fail to renew its lease."""

RENEW_EVERY_S = 0.5
END_RETRIES = 20
RETRY_S = 1.0
MAX_RETRY_S = 30.0
"""The delay before a failed replay is begun again: at first, and at most."""


class ReplayRun:
    """A replay that was claimed by *holder*.

    Attributes:
        replay: the replay as it was claimed.
        player: its player; None before it plays, and for a repair.
        permit: the permit to publish its text.
    """

    def __init__(self, replay: Replay, holder: str, replays: ReplayQueue) -> None:
        self.replay = replay
        self.player: Player | None = None
        self._holder = holder
        self._replays = replays
        self._done = replay.done
        self.permit = PublishPermit(self._save)
        self._keeper = LeaseKeeper(
            f"lease of {replay.id}", self._renew, every_s=RENEW_EVERY_S, lease_s=LEASE_S
        )

    @property
    def may_have_begun(self) -> bool:
        """False if nothing of the replay was published, here or by another process."""
        here = self.player is not None and self.player.begun
        return here or self.replay.attempts > 1 or self.replay.done > 0

    def renew_now(self) -> None:
        """Renew the lease at once, and so see a cancellation at once."""
        self._keeper.renew_now()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Renew the lease while the block runs, and cancel the block when the lease is lost.

        Raises:
            LeaseLost: it was lost.
        """
        async with self._keeper.holding():
            yield

    async def _renew(self) -> None:
        """Renew lease and permit; an erased replay keeps its lease until its stop is published.

        Raises:
            LeaseLost: another process has the replay.
            StoreUnavailable: Postgres does not answer.
        """
        with suppress(TextErased):
            await self.permit.renew()

    async def _save(self) -> bool:
        """Store the progress, renew the lease, and cancel the player if that was requested.

        Returns:
            False if the text was erased.

        Raises:
            LeaseLost: another process has the replay.
            StoreUnavailable: Postgres does not answer.
        """
        order = await self._replays.keep_replay(self.progress(), self._holder, LEASE_S)
        if order is None:
            raise LeaseLost
        if order != "play":
            self.replay = self.replay._replace(cancel_asked=True)
            if self.player is not None:
                self.player.cancel()
        return order != "erased"

    async def end(self, state: ReplayState, error: Any) -> bool:
        """Store the final state, and an audit entry.

        Args:
            state: the final state.
            error: the problem, as JSON; None if there was none.

        Returns:
            False if another process has the replay.

        Raises:
            StoreUnavailable: Postgres did not answer for long; the process that claims it next
                ends it.
        """
        ended = self.progress()._replace(state=state, error=error)
        detail = {"response_id": ended.response_id, "replay_id": ended.id, "done": ended.done}
        if error is not None:
            detail["error"] = error
        note = AuditEntry(
            ended.asked_by, "replay", state, ended.conversation_id, ended.channel, None, detail
        )
        backoff = Backoff(RENEW_EVERY_S, RENEW_EVERY_S)
        for _ in range(END_RETRIES):
            try:
                return await self._replays.end_replay(ended, self._holder, note)
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())
        return await self._replays.end_replay(ended, self._holder, note)

    async def retry_later(self) -> None:
        """Have some process begin the replay again, later with each attempt without progress."""
        delay_s = min(RETRY_S * 2**self.replay.attempts, MAX_RETRY_S)
        try:
            await self._replays.keep_replay(self.progress(), self._holder, jittered(delay_s))
        except StoreUnavailable:
            _log.warning("a replay could not be postponed; it is retried when its lease runs out")

    async def release(self) -> None:
        """Release the lease, so that another process continues the replay at once."""
        try:
            begun = self.may_have_begun
            await self._replays.release_replay(self.progress(), self._holder, begun=begun)
        except StoreUnavailable:
            _log.warning("a replay could not be released; it continues when its lease runs out")

    def mark_done(self) -> None:
        """Record that all its channel messages are acknowledged."""
        self._done = self.replay.chunks

    def progress(self) -> Replay:
        """Return the replay with its current progress."""
        player = self.player
        if player is None:
            return self.replay._replace(done=self._done)
        return self.replay._replace(
            done=player.done,
            seconds_done=player.seconds_done,
            gen=player.gen,
            gen_from=player.gen_from,
        )
