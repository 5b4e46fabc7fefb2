"""One replay that this process runs: its lease, and how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from rehydrate.core.replay.requests import AuditEntry, Replay, ReplayState
from rehydrate.errors import StoreUnavailable

if TYPE_CHECKING:
    from rehydrate.ports import ReplayQueue
    from rehydrate.replay.player import Player

_log = logging.getLogger(__name__)

LEASE_S = 5.0
"""How long a process that runs a replay may give no sign of life."""

KEEP_EVERY_S = 0.5
END_TRIES = 20


class LeaseLost(Exception):
    """The replay is somebody else's now, or gone with its conversation."""


class ReplayRun:
    """A replay, held by *holder*.

    Attributes:
        replay: as it was taken.
        player: what plays it, once something does.
    """

    def __init__(self, replay: Replay, holder: str, replays: ReplayQueue) -> None:
        self.replay = replay
        self.player: Player | None = None
        self._holder = holder
        self._replays = replays
        self._done = replay.done
        self._look = asyncio.Event()

    def look(self) -> None:
        """Somebody may have asked for something: look now."""
        self._look.set()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep the lease while the block runs, which is cut off when the lease is lost.

        Raises:
            Lost: it is.
        """
        task = asyncio.current_task()
        lost = False

        def cut_off(keeping: asyncio.Task[None]) -> None:
            nonlocal lost
            if not keeping.cancelled() and task is not None:
                lost = True
                task.cancel()

        keeping = asyncio.create_task(self._keep_on(), name=f"lease of {self.replay.id}")
        keeping.add_done_callback(cut_off)
        try:
            yield
        except asyncio.CancelledError:
            if not lost or task is None or task.uncancel():
                raise
            await asyncio.gather(keeping, return_exceptions=True)
            raise LeaseLost from None
        finally:
            keeping.remove_done_callback(cut_off)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def keep(self) -> None:
        """Note how far it is, and keep the lease; passes on that it is to be cancelled.

        Raises:
            Lost: it is not ours any more.
            StoreUnavailable: Postgres does not answer.
        """
        cancel = await self._replays.keep_replay(self.standing(), self._holder, LEASE_S)
        if cancel is None:
            raise LeaseLost
        if cancel and self.player is not None:
            self.player.cancel()

    async def end(self, state: ReplayState, error: Any) -> bool:
        """Note how it ended; False if it was not ours any more.

        Raises:
            StoreUnavailable: Postgres does not answer for long; whoever takes it next ends it.
        """
        ended = self.standing()._replace(state=state, error=error)
        detail = {"response_id": ended.response_id, "replay_id": ended.id, "done": ended.done}
        if error is not None:
            detail["error"] = error
        note = AuditEntry(
            ended.asked_by, "replay", state, ended.conversation_id, ended.channel, None, detail
        )
        for _ in range(END_TRIES):
            try:
                return await self._replays.end_replay(ended, self._holder, note)
            except StoreUnavailable:
                await asyncio.sleep(KEEP_EVERY_S)
        return await self._replays.end_replay(ended, self._holder, note)

    async def release(self) -> None:
        """Give it back, to be gone on with at once."""
        try:
            await self._replays.release_replay(self.standing(), self._holder)
        except StoreUnavailable:
            _log.warning("a replay could not be given back; its lease runs out")

    def told(self) -> None:
        """All that it has to say is acknowledged."""
        self._done = self.replay.chunks

    def standing(self) -> Replay:
        """The replay, as far as it is now."""
        player = self.player
        if player is None:
            return self.replay._replace(done=self._done)
        return self.replay._replace(
            done=player.done,
            seconds_done=player.seconds_done,
            gen=player.gen,
            gen_from=player.gen_from,
        )

    async def _keep_on(self) -> None:
        loop = asyncio.get_running_loop()
        kept_s = loop.time()
        while True:
            try:
                async with asyncio.timeout(KEEP_EVERY_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            asked_s = loop.time()
            try:
                await self.keep()
                kept_s = asked_s
            except StoreUnavailable:
                if loop.time() - kept_s > LEASE_S:  # somebody else may have it by now
                    raise LeaseLost from None
