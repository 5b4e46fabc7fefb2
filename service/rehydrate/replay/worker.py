"""Worker: run queued replays in this process, each under a lease.

Replays are claimed by a query with ``SKIP LOCKED``. When a process dies, the leases of its replays
run out, and another process continues them where they were. A process that closes releases its
replays at once.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.background import LeaseLost, PeriodicTask, TaskPool, log_failure
from rehydrate.core.replay.schedule import Replay, ReplayState
from rehydrate.errors import BadRequest, ChannelUnavailable, RehydrateError
from rehydrate.replay.player import Player
from rehydrate.replay.repair import repair
from rehydrate.replay.replay_run import LEASE_S, ReplayRun
from rehydrate.replay.requests import planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.context import Context
    from rehydrate.core.message import MessageState
    from rehydrate.replay.player import Outlet

_log = logging.getLogger(__name__)

CLAIM_EVERY_S = 1.0
MAX_ATTEMPTS = 5
"""How often a replay is started without progress before it counts as failed."""


class ReplayOptions(NamedTuple):
    """How replays run.

    Attributes:
        at_once: how many run at a time, in all processes together.
        per_channel: how many of them on one channel.
        client_id: the clientId that they are published with.
    """

    at_once: int = 8
    per_channel: int = 1
    client_id: str | None = None


class ReplayWorker:
    """Claims queued replays and runs them, several at a time.

    Args:
        ctx: the adapters and limits.
        rules: how they run.
        noticed: called with the conversation of each replay that begins or ends, since its channel
            has new messages.
        ended: called with the final state of each replay.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        rules: ReplayOptions,
        noticed: Callable[[str], None],
        ended: Callable[[ReplayState], None],
    ) -> None:
        self._ctx = ctx
        self._rules = rules
        self._noticed = noticed
        self._ended = ended
        self._name = uuid.uuid4().hex
        self._running = TaskPool()
        self._runs: dict[str, ReplayRun] = {}
        self.task = PeriodicTask("replays", self._claim_all, every_s=CLAIM_EVERY_S)

    def open(self) -> None:
        """Start claiming replays."""
        self.task.open()

    async def close(self) -> None:
        """Stop; running replays are released, and continue in another process, or later."""
        await self.task.close()
        await self._running.close()

    def wake(self) -> None:
        """Look at once for new replays, and for cancellations of running ones."""
        for run in self._runs.values():
            run.renew_now()
        self.task.wake()

    async def _claim_all(self) -> None:
        """Claim and start replays until none is left, or enough run."""
        while len(self._running) < self._rules.at_once and await self._start_one():
            pass

    async def _start_one(self) -> bool:
        """Claim one replay and start it; return False if none is queued."""
        holder = f"{self._name}-{uuid.uuid4().hex[:8]}"
        rules = self._rules
        replay = await self._ctx.store.claim_replay(
            holder, LEASE_S, at_once=rules.at_once, per_channel=rules.per_channel
        )
        if replay is None:
            return False
        run = ReplayRun(replay, holder, self._ctx.store)
        self._runs[replay.id] = run
        self._noticed(replay.conversation_id)
        self._running.start(self._run(run), name=f"replay {replay.id}")
        return True

    async def _run(self, run: ReplayRun) -> None:
        try:
            async with run.lease():
                state, error = await self._perform(run)
            if await run.end(state, error):
                self._ended(state)
        except asyncio.CancelledError:
            await run.release()
            raise
        except LeaseLost:
            _log.info("a replay was taken over by another process, or erased")
        except Exception as error:  # noqa: BLE001 - its lease runs out, and it is claimed again
            log_failure(_log, "a replay was interrupted, will retry", error)
        finally:
            self._runs.pop(run.replay.id, None)
            self._noticed(run.replay.conversation_id)
            self.task.wake()

    async def _perform(self, run: ReplayRun) -> tuple[ReplayState, Any]:
        """Run a replay to its end; return its final state, and the problem if it failed."""
        replay = run.replay
        with self._ctx.publish_queue.channel(
            replay.channel, steady_per_s=replay.terms.max_rate
        ) as outlet:
            try:
                if replay.terms.mode == "stream":
                    return await self._stream(run, outlet)
                if replay.cancel_asked:
                    return "cancelled", None
                await repair(replay, store=self._ctx.store, outlet=outlet)
                run.mark_done()
            except (BadRequest, ChannelUnavailable) as error:
                return "failed", _problem(error)
        return "done", None

    async def _stream(self, run: ReplayRun, outlet: Outlet) -> tuple[ReplayState, Any]:
        replay = run.replay
        state = await self._state(replay)
        if state is None:
            return "failed", {"code": "gone", "detail": "the response is not stored any more"}
        schedule, plan = await asyncio.to_thread(planned, state, replay.terms)
        player = Player(replay, schedule, outlet, self._rules.client_id, run.save)
        run.player = player
        if replay.attempts > 1 or replay.done:
            await player.resume(self._ctx.channel, replay.channel, replay.started_ms or 0)
        problem: Any = None
        if plan["digest"] != replay.plan.get("digest"):
            problem = {"code": "conflict", "detail": "the stored response has changed"}
        elif replay.attempts > MAX_ATTEMPTS:
            detail = f"started {MAX_ATTEMPTS} times without progress"
            problem = {"code": "attempts", "detail": detail}
        try:
            if problem is None:
                return ("done" if await player.play() else "cancelled"), None
        except ChannelUnavailable as error:
            problem = _problem(error)
        try:
            await player.stop("failed")
        except ChannelUnavailable:
            _log.warning("the stop of a failed replay could not be published")
        return "failed", problem

    async def _state(self, replay: Replay) -> MessageState | None:
        found = await self._ctx.store.states(replay.conversation_id, [replay.response_id])
        return next((state for state in found if state.id == replay.response_id), None)


def _problem(error: RehydrateError) -> dict[str, str]:
    return {"code": error.code, "detail": str(error)}
